#!/usr/bin/env bash
# Walks the README's "Deploy" on a real engine and says what it saw: build and start from a clean checkout, first answer,
# a version learned from grades, two servers behind the balancer and a swap seen on both, a stream, every part restarted
# and killed (-9), data kept over down and up, rotated secrets, backup and restore.
#
#   scripts/compose_check.sh          10 to 20 minutes on two cores, most of it building the images
#   scripts/compose_check.sh --keep   leave the stack up at the end (or where it failed), and say how to remove it
#
# Needs bash, curl, git, openssl, and an engine that answers to `docker compose`; nothing of this project is installed.
# Port 8000 of this machine must be free. What is tested is the commit HEAD, in a folder of its own under TMPDIR, as a
# project of its own: another stack of the same name, its .env and its secrets are left alone, and at the end everything
# that was made here is removed (the engine's build cache excepted). TORCH_INDEX_URL in the environment wins over .env.
#
# Exits 0 when everything was so, 1 with a word at the first thing that was not.
set -euo pipefail

usage() { sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
keep=""
case "${1:-}" in
"") ;;
--keep) keep=yes ;;
-h | --help)
    usage
    exit 0
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

# The shell wins over .env where Compose fills in variables: what is set here by chance must not.
unset "${!LEPO_@}" "${!COMPOSE_@}"
export COMPOSE_PROJECT_NAME="lepo-check-$$" LEPO_TAG="check-$$"
source_tree="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$(mktemp -d "${TMPDIR:-/tmp}/lepo-check.XXXXXX")"
log="$folder/log"
door=http://127.0.0.1:8000
began=$SECONDS

# --- saying what is seen ---------------------------------------------------------------------------------------------

step() {
    title="$1"
    step_began=$SECONDS
}

saw() { printf '%5d s  %-34s %4d s  %s\n' $((SECONDS - began)) "$title" $((SECONDS - step_began)) "$*"; }

fail() {
    printf '%5d s  %-34s FAILED: %s\n' $((SECONDS - began)) "$title" "$*"
    echo "The last lines of what the commands said:"
    tail -n 25 "$log" | sed 's/^/    /'
    exit 1
}

clean_up() {
    local status=$?
    trap - EXIT
    if [[ -n $keep ]]; then
        echo "Left as it is. To remove it: cd $folder/lepo && export COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME LEPO_TAG=$LEPO_TAG &&"
        echo "  docker compose -f docker/compose.yaml down -v --rmi local; rm -rf $folder"
        exit "$status"
    fi
    if [[ -f $folder/lepo/docker/.env ]]; then
        (cd "$folder/lepo" && docker compose -f docker/compose.yaml --profile '*' down -v --remove-orphans) >> "$log" 2>&1 || true
        docker image rm "lepo-service:$LEPO_TAG" "lepo-service-light:$LEPO_TAG" >> "$log" 2>&1 || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap clean_up EXIT
trap 'title="${title:-start}"; exit 1' INT TERM

# --- asking and grading ----------------------------------------------------------------------------------------------

compose() { docker compose -f docker/compose.yaml "$@"; }
field() { grep -o "\"$1\": *\"\{0,1\}[^\",}]*" | head -n 1 | sed 's/^"[^"]*": *"\{0,1\}//'; }
version() { curl -sf --max-time 5 "$1/version" | field policy_version || true; }

post() { # path, body; the key is $KEY
    curl -sS --fail-with-body --max-time 60 "$door$1" -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d "$2"
}

within() { # seconds, command...: until it succeeds
    local until=$((SECONDS + $1))
    shift
    until "$@" >> "$log" 2>&1; do
        ((SECONDS < until)) || return 1
        sleep 0.3
    done
}

answers() { # one answer, kept in `acknowledged`
    local said
    said=$(post /v1/chat/completions '{"model": "lepo", "messages": [{"role": "user", "content": "Work out 3 + 4 + 5 + 6 step by step."}]}') || return 1
    acknowledged+=("$(grep -o 'int_[0-9a-f]*' <<< "$said" | head -n 1)")
}

teach() { # one question, eight answers, a grade for each through the API; prints how many were accepted
    local a=$((RANDOM % 60 + 20)) b=$((RANDOM % 20)) c=$((RANDOM % 20)) d=$((RANDOM % 20)) said id content value accepted=0
    said=$(post /v1/chat/completions '{"model": "lepo", "n": 8, "messages": [{"role": "user", "content": "Work out '"$a + $b - $c + $d"' step by step."}]}') || return 0
    while IFS=$'\t' read -r content id; do
        value=0
        [[ $content == *" $((a + b - c + d))\"" ]] && value=1
        post "/v1/interactions/$id/grades" '{"value": '$value', "grader": {"kind": "client", "id": "check"}}' > /dev/null && accepted=$((accepted + 1))
    done < <(paste <(grep -o '"content":"[^"]*"' <<< "$said") <(grep -o 'int_[0-9a-f]*' <<< "$said"))
    echo "$accepted"
}

learn_beyond() { # version, seconds: teach until a newer one serves
    local until=$((SECONDS + $2)) now accepted
    grades=0
    while :; do
        now=$(version $door)
        [[ -n $now ]] && ((now > $1)) && return 0
        ((SECONDS < until)) || return 1
        accepted=$(teach 2>> "$log") || accepted=0
        grades=$((grades + ${accepted:-0}))
    done
}

container() { docker inspect --format '{{.State.StartedAt}} {{.RestartCount}}' "$COMPOSE_PROJECT_NAME-$1-1"; } # of the first
changed() { [[ $(container "$1") != "$2" ]]; }

doors() { # the servers that answer behind the balancer
    for _ in 1 2 3 4 5 6; do curl -si --max-time 5 $door/version | tr -d '\r' | sed -n 's/^x-served-by: //ip'; done | sort -u | paste -sd ' '
}

well() { # a part does its work
    case $1 in
    worker | beat) compose exec -T "$1" lepo health "$1" ;;
    api) answers && (($(doors | wc -w) == servers)) ;;
    *) answers && compose exec -T beat lepo health beat ;;
    esac
}

everything_is_there() {
    local id
    for id in "${acknowledged[@]}"; do
        curl -sf --max-time 10 -o /dev/null "$door/v1/interactions/$id" -H "Authorization: Bearer $KEY" || fail "interaction $id is gone"
    done
}

# --- the walk --------------------------------------------------------------------------------------------------------

title=needs step_began=$SECONDS acknowledged=() grades=0
: > "$log"
for tool in curl git openssl docker; do command -v $tool > /dev/null || fail "$tool is not here"; done
docker compose version >> "$log" 2>&1 || fail "'docker compose' does not answer: install the Compose plugin"
docker info >> "$log" 2>&1 || fail "the engine does not answer: start it, or set DOCKER_HOST"
if curl -s --max-time 2 -o /dev/null $door; then fail "somebody answers on port 8000 of this machine"; fi

step "a clean checkout of HEAD"
mkdir "$folder/lepo"
git -C "$source_tree" archive HEAD | tar -x -C "$folder/lepo" || fail "git archive"
[[ -z $(git -C "$source_tree" status --porcelain) ]] || echo "         (changes that are not committed are left out)"
cd "$folder/lepo"
find . -exec touch -h -t 200001010000 {} + # some engines take a file of another time for another file, and build anew
saw "$(git -C "$source_tree" log -1 --format='%h %s'); $(docker compose version --short) of Compose"

step "build, and up --wait"
from_nothing() {
    cp docker/.env.example docker/.env
    mkdir -m 700 docker/secrets
    openssl rand -hex 32 > docker/secrets/database_password
    echo "lepo-$(openssl rand -hex 5)-$(openssl rand -hex 32)" > docker/secrets/admin_key
    chmod 444 docker/secrets/*
    docker compose -f docker/compose.yaml up -d --build --wait
}
from_nothing >> "$log" 2>&1 || fail "up -d --build --wait"
ADMIN=$(cat docker/secrets/admin_key)
saw "every part is well"

step "first answer"
first_answer() {
    KEY=$(docker compose -f docker/compose.yaml exec -T api lepo keys create me)
    curl http://127.0.0.1:8000/v1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
      -d '{"model": "lepo", "messages": [{"role": "user", "content": "Work out 47 + 6 - 8 + 9 step by step."}]}'
}
first_answer > "$folder/answer" 2>> "$log" || fail "no key, or no answer"
answers || fail "no answer to a second question"
saw "$(field content < "$folder/answer"), by version $(field policy_version < "$folder/answer")"

step "a version learned from grades"
held_out_and_settings() {
    docker compose -f docker/compose.yaml exec -T api \
      lepo export chained_arithmetic --split validation --count 200 --out - > docker/data/heldout.jsonl
cat >> docker/.env <<'END'
LEPO_HELDOUT=/data/heldout.jsonl
LEPO_LEARNING_RATE=3e-4
LEPO_MAX_COMPLETION_TOKENS=40
END
    docker compose -f docker/compose.yaml up -d --wait
}
questions_with_a_grader() {
    for i in $(seq 40); do
      a=$((RANDOM % 60 + 20)) b=$((RANDOM % 20)) c=$((RANDOM % 20)) d=$((RANDOM % 20))
      curl -sSf -o /dev/null http://127.0.0.1:8000/v1/chat/completions -H "Authorization: Bearer $KEY" \
        -H "Content-Type: application/json" -d '{"model": "lepo", "n": 8, "messages": [{"role": "user", "content":
          "Work out '"$a + $b - $c + $d"' step by step."}], "grader": {"type": "math", "reference": "'$((a + b - c + d))'"}}'
    done
    curl http://127.0.0.1:8000/version
}
held_out_and_settings >> "$log" 2>&1 || fail "held-out prompts, or up --wait with them"
[[ $(compose exec -T worker sh -c 'echo $LEPO_LEARNING_RATE') == 3e-4 ]] || fail "a setting in .env did not arrive"
questions_with_a_grader >> "$log" 2>&1 || fail "a question was refused"
learn_beyond 0 240 || fail "no version was learned in four minutes"
saw "version $(version $door), after 320 answers with a grader and $grades grades through the API"

step "two servers behind the balancer"
two_servers() {
cat >> docker/.env <<'END'
COMPOSE_PROFILES=cpu,balancer
LEPO_API_PUBLISH=127.0.0.1:0:8000
END
    docker compose -f docker/compose.yaml up -d --wait --scale api=2
    curl -i http://127.0.0.1:8000/version
}
two_servers >> "$log" 2>&1 || fail "up --wait --scale api=2"
servers=2
within 30 well api || fail "answers come from $(doors)"
saw "answers come from $(doors)"

step "a swap on both"
one=http://$(compose port --index 1 api 8000) two=http://$(compose port --index 2 api 8000)
before=$(version "$one")
learn_beyond "$before" 240 || fail "no newer version than $before in four minutes"
reached() { local now; now=$(version "$1"); [[ -n $now ]] && ((now > before)); }
within 15 reached "$one" || fail "the first server stays at version $before"
within 15 reached "$two" || fail "the second server stays at version $before"
saw "from version $before to $(version "$one") and $(version "$two") ($grades grades), without a restart"

step "a stream through the balancer"
chunks=0 first=0 last=0 asked=${EPOCHREALTIME/[.,]/}
while IFS= read -r line; do
    [[ $line == data:* ]] || continue
    last=${EPOCHREALTIME/[.,]/} chunks=$((chunks + 1))
    ((first)) || first=$last
done < <(curl -sN --max-time 60 $door/v1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
    -d '{"model": "lepo", "stream": true, "ignore_eos": true, "max_tokens": 600, "messages": [{"role": "user", "content": "Work out 1 + 2 + 3 + 4 step by step."}]}')
((chunks > 10 && (first - asked) * 3 < last - asked)) || fail "$chunks chunks, the first after $(((first - asked) / 1000)) of $(((last - asked) / 1000)) ms"
saw "$chunks chunks, the first after $(((first - asked) / 1000)) ms, the last after $(((last - asked) / 1000)) ms"

parts="postgres redis api worker beat balancer"
for part in $parts; do
    step "restart of $part"
    was=$(container "$part")
    compose restart "$part" >> "$log" 2>&1 || fail "restart"
    changed "$part" "$was" || fail "it was not restarted"
    within 90 well "$part" || fail "it does not do its work again"
    saw "it does its work again"
done

for part in $parts; do
    step "kill -9 of $part"
    was=$(container "$part")
    # Below the container's init, as a crash is: an engine does not restart what was killed through it.
    compose exec -T "$part" sh -c 'kill -9 $(cat /proc/1/task/1/children)' >> "$log" 2>&1 || true
    within 60 changed "$part" "$was" || fail "the engine did not start it again"
    within 90 well "$part" || fail "it does not do its work again"
    saw "started again by the engine, does its work"
done

step "learning goes on"
before=$(version $door)
learn_beyond "$before" 240 || fail "no newer version than $before in four minutes"
everything_is_there
saw "version $(version $door); all ${#acknowledged[@]} answers that were acknowledged are there"

step "down, and up --wait"
before=$(version $door)
compose down >> "$log" 2>&1 || fail "down"
docker compose -f docker/compose.yaml up -d --wait --scale api=2 >> "$log" 2>&1 || fail "up --wait"
[[ $(version $door) == "$before" ]] || fail "version $before served before, $(version $door) after"
everything_is_there
saw "version $before serves, nothing is lost"

step "backup"
backup() {
    mkdir -p -m 700 backup
    docker compose -f docker/compose.yaml exec -T postgres pg_dump -U lepo -Fc lepo > backup/lepo.dump
    docker compose -f docker/compose.yaml exec -T api tar -C /var/lib/lepo -c checkpoints > backup/checkpoints.tar
}
backup 2>> "$log" || fail "pg_dump or tar"
saw "$(du -k backup/lepo.dump | cut -f 1) KB of database, $(du -k backup/checkpoints.tar | cut -f 1) KB of checkpoints"

step "restore into nothing"
restore() {
    docker compose -f docker/compose.yaml up -d --wait postgres redis
    docker compose -f docker/compose.yaml exec -T postgres pg_restore -U lepo -d lepo --exit-on-error < backup/lepo.dump
    docker compose -f docker/compose.yaml run --rm -T --no-deps worker tar -C /var/lib/lepo -x < backup/checkpoints.tar
    docker compose -f docker/compose.yaml up -d --wait
}
compose down -v >> "$log" 2>&1 || fail "down -v"
restore >> "$log" 2>&1 || fail "pg_restore, tar or up --wait"
[[ $(version $door) == "$before" ]] || fail "version $before was saved, $(version $door) serves"
servers=1
everything_is_there
saw "version $before serves, all ${#acknowledged[@]} answers are there"

step "another admin key"
rotate_admin_key() {
    echo "lepo-$(openssl rand -hex 5)-$(openssl rand -hex 32)" > docker/secrets/admin_key.new
    chmod 444 docker/secrets/admin_key.new
    mv -f docker/secrets/admin_key.new docker/secrets/admin_key
    docker compose -f docker/compose.yaml up -d --wait --no-deps --force-recreate api
}
opens() { [[ $(curl -s -o /dev/null -w '%{http_code}' --max-time 10 $door/v1/admin/overview -H "Authorization: Bearer $1") == "$2" ]]; }
opens "$ADMIN" 200 || fail "the admin key does not open"
rotate_admin_key >> "$log" 2>&1 || fail "up --force-recreate api"
within 30 opens "$(cat docker/secrets/admin_key)" 200 || fail "the new key does not open"
within 30 opens "$ADMIN" 401 || fail "the old key still opens"
! compose logs 2>&1 | grep -qF "$(cat docker/secrets/admin_key)" || fail "the key stands in the logs"
saw "the new one opens, the old one no longer; neither is in the logs"

step "another database password"
rotate_database_password() {
    openssl rand -hex 32 > docker/secrets/database_password.new
    chmod 444 docker/secrets/database_password.new
    echo "ALTER ROLE lepo PASSWORD '$(cat docker/secrets/database_password.new)'" |
      docker compose -f docker/compose.yaml exec -T postgres psql -q -U lepo
    mv -f docker/secrets/database_password.new docker/secrets/database_password
    docker compose -f docker/compose.yaml up -d --wait --force-recreate
}
rotate_database_password >> "$log" 2>&1 || fail "ALTER ROLE or up --force-recreate"
within 60 well api || fail "no answer with the new password"
within 60 well worker || fail "the worker is not well with the new password"
everything_is_there
saw "every part is well with it"

printf '%5d s  All of it was so.\n' $((SECONDS - began))
