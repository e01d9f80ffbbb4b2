// The playground: asks the API as whoever is signed in, shows tokens as they come, and grades what came.
"use strict";
const csrf = document.querySelector("meta[name=csrf]").content;
const form = document.getElementById("ask");
const both = document.getElementById("both");
const talks = new Map(); // side -> messages so far

const sides = () => [...document.querySelectorAll(".side")].filter((one) => !one.hidden);
const level = (logprob) => Math.min(7, Math.max(0, Math.floor(-logprob * 2)));
const value = (side, name) => side.querySelector(`[name=${name}]`);

function bodyOf(side, messages) {
  const number = (name) => Number(value(side, name).value);
  return {
    model: form.dataset.model,
    messages,
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    latent: { length: number("length"), tau: number("tau") },
  };
}

function headersOf(side) {
  const version = value(side, "version");
  return version ? { "X-Policy-Version": version.value } : {};
}

async function call(method, path, body, more = {}) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": csrf, ...more };
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Error(said?.error?.message ?? `The server answered ${answer.status}.`);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value: text } = await reader.read();
    if (done) return;
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function show(where, choice) {
  const tokens = choice.logprobs?.content ?? [];
  const text = choice.delta?.content ?? "";
  if (tokens.length === 1 || !tokens.length) {
    if (!text) return text;
    const span = document.createElement("span");
    span.textContent = text;
    if (tokens.length) {
      span.className = `token l${level(tokens[0].logprob)}`;
      span.title = `${tokens[0].logprob.toFixed(3)} nats, ${(100 * Math.exp(tokens[0].logprob)).toFixed(1)}%`;
    }
    where.append(span);
    return text;
  }
  where.append(text);
  return text;
}

async function ask(side, question) {
  const talk = talks.get(side) ?? [];
  talks.set(side, [...talk, { role: "user", content: question }]);
  const turn = document.getElementById("turn").content.cloneNode(true);
  const [said, answered] = turn.querySelectorAll(".said-by");
  said.querySelector("pre").textContent = question;
  side.querySelector(".talk").append(turn);
  const who = answered.querySelector(".who-said");
  const pre = answered.querySelector("pre");
  let text = "";
  let last = null;
  try {
    const body = { ...bodyOf(side, talks.get(side)), stream: true, logprobs: true };
    const answer = await call("POST", "/v1/chat/completions", body, headersOf(side));
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices?.[0];
      if (!choice) continue;
      text += show(pre, choice);
      if (choice.interaction_id) last = choice;
    }
  } catch (error) {
    who.textContent = "refused";
    pre.textContent = error.message;
    talks.set(side, talk);
    return;
  }
  talks.set(side, [...talks.get(side), { role: "assistant", content: text }]);
  if (!text) pre.textContent = "(nothing)";
  if (last) after(answered, who, last);
}

function after(answered, who, choice) {
  const part = answered.querySelector(".after");
  const outcome = part.querySelector(".outcome");
  const path = `/v1/interactions/${choice.interaction_id}/grades`;
  const grader = { kind: "person", id: "console" };
  const grade = async (body, words) => {
    try {
      await call("POST", path, { ...body, grader });
      outcome.textContent = words;
    } catch (error) {
      outcome.textContent = error.message;
    }
  };
  who.textContent = `version ${choice.policy_version}`;
  part.hidden = false;
  part.querySelector(".open").href = `/console/answers/${choice.interaction_id}`;
  part.querySelectorAll("[data-value]").forEach((button) => {
    button.addEventListener("click", () => grade({ value: Number(button.dataset.value) }, `Graded ${button.dataset.value}.`));
  });
  const correction = part.querySelector("form");
  part.querySelector("[data-correct]").addEventListener("click", () => { correction.hidden = !correction.hidden; });
  correction.addEventListener("submit", (event) => {
    event.preventDefault();
    grade({ correction: correction.querySelector("textarea").value }, "Corrected.");
    correction.hidden = true;
  });
  const thought = part.querySelector("[data-thought]");
  if (!form.dataset.trace) thought.remove();
  thought.addEventListener("click", async () => {
    const answer = await fetch(`/console/answers/${choice.interaction_id}/trace`, { headers: { "HX-Request": "true" } });
    if (answer.ok) part.querySelector(".thought").innerHTML = await answer.text();
    else outcome.textContent = "No trace of this answer is kept.";
  });
}

function written(side, as) {
  const question = document.getElementById("question").value;
  const body = bodyOf(side, [...(talks.get(side) ?? []), { role: "user", content: question }]);
  const headers = Object.entries(headersOf(side));
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  if (as === "curl") {
    const more = headers.map(([name, text]) => ` -H "${name}: ${text}"`).join("");
    return `curl ${location.origin}/v1/chat/completions -H "Authorization: Bearer $LEPO_KEY" -H "Content-Type: application/json"${more} -d '${quoted}'`;
  }
  const { latent, ...plain } = body;
  const given = Object.entries(plain).map(([name, one]) => `    ${name}=${JSON.stringify(one)},`).join("\n");
  const extra = headers.length ? `\n    extra_headers=${JSON.stringify(Object.fromEntries(headers))},` : "";
  return `import os

from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["LEPO_KEY"])
answer = client.chat.completions.create(
${given}
    extra_body={"latent": ${JSON.stringify(latent)}},${extra}
)
print(answer.choices[0].message.content)`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = document.getElementById("question").value.trim();
  if (question) sides().forEach((side) => ask(side, question));
});
document.getElementById("clear").addEventListener("click", () => {
  talks.clear();
  document.querySelectorAll(".talk").forEach((talk) => talk.replaceChildren());
});
both.addEventListener("change", () => { document.querySelector("[data-side=b]").hidden = !both.checked; });
document.querySelectorAll("[data-as]").forEach((button) => {
  button.addEventListener("click", async () => {
    const words = button.textContent;
    await navigator.clipboard.writeText(written(button.closest(".side"), button.dataset.as)).catch(() => {});
    button.dataset.written = written(button.closest(".side"), button.dataset.as);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = words; }, 1500);
  });
});
