"""The gate: ask a candidate and its forebears fresh held-out questions, as many as it takes, and decide.

The incumbent is asked a first part of the plan before the update, the candidate the same part after it. Where that does
not decide, both are asked more, and so is the base where it is the base that is known too little; how a version is
asked is the caller's. Everything that is asked is handed back, to be kept with the versions it was asked of: the next
look builds on it. Leaves out the statistics (`training.statistics.gate`, `training.statistics.levels`), and what a
decision leads to (the learner).
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from app.settings import Settings
from training.placement import ANSWER, Placement
from training.statistics.gate import Judgement, judge
from training.statistics.levels import Measured, Round, difficulty, measure
from worker.gate.evaluation import EvaluationPlan, Scores, conditions_of, make_plan, read_scores
from worker.gate.evaluation_set import EvaluationSet

Decision = Literal["pass", "refuse", "hold"]
Ask = Callable[[int, EvaluationPlan], Scores]  # version and what to ask it
Recorded = tuple[int, Scores]  # a version and what it was asked

PART: Final = 40  # items, at least, of one part of a plan; else half of the questions
REPEATS: Final = 16  # how often one look may ask a question, with other seeds each time
AGAIN_PARTS: Final = 4  # parts that base or best are asked at a time: seldom, and many are compared with them
AGAIN_LOOKS: Final = 4  # budgets of a look that are spent on the base, or on one best, in all
LOOKS_BACK: Final = 60  # scores of the lineage that count, two a look, besides those of the base
AGAIN: Final = "/again/"  # in the name of a plan that only the base, or the best, is asked

HOW_TO: Final = (
    "upload a JSONL file (lepo data held-out upload FILE) or name it in LEPO_HELDOUT, a line per prompt, as "
    '{"prompt": "...", "grader": {"type": "string_check", "operation": "eq", "reference": "..."}}; '
    "two hundred prompts see a fall of a few points. Until then a person promotes what is held, or "
    "LEPO_GATE_NO_SIGNAL=promote serves every update unseen"
)


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the gate says of a candidate."""

    decision: Decision
    words: str  # why, for people
    figures: dict[str, Any]  # JSON
    scores: tuple[
        Recorded, ...
    ] = ()  # all that was asked at this look, to be recorded: candidate, incumbent, forebears
    better: int | None = None  # with a refusal: the forebear that should serve, for what serves is shown to be worse

    def of(self, version: int) -> Scores | None:
        """Give what a version was asked at this look."""
        return next((scores for one, scores in self.scores if one == version), None)


@dataclass(frozen=True, slots=True)
class Vitals:
    """Figures of the update that tell a collapse which answers may not show yet."""

    entropy_before: float  # nats, mean over answer tokens
    entropy_after: float  # nats


@dataclass(slots=True)
class Look:
    """One look of the gate: made before the update, gone through after it.

    Example: `look = Look(settings, questions, recorded, str(job.id), candidate=8, incumbent=7)`, then
    `before = ask(7, look.first)`, the update, and `look.examine(before, ask)`.
    """

    settings: Settings
    questions: EvaluationSet
    recorded: Sequence[Recorded]  # of the incumbent and its forebears, the oldest first; `recorded_of`
    name: str  # of the look, never used twice: the job
    candidate: int  # version the candidate would get; any number no forebear has
    incumbent: int  # version that serves
    base: int = 0  # version everything began with
    reachable: Collection[int] = (0,)  # forebears that can still be asked: their weights are there
    placement: Placement = ANSWER  # where the latent steps of answers sit
    part: int = field(init=False)  # items asked at a time
    most: int = field(init=False)  # items asked in all, of one policy
    earlier: list[Recorded] = field(init=False)  # what may be compared with what is asked now
    asked: list[list[str]] = field(init=False)  # questions of earlier looks, the oldest first

    def __post_init__(self) -> None:
        conditions, keys = conditions_of(self.settings, self.placement), list(self.questions.questions)
        usable = [(version, scores) for version, scores in self.recorded if scores.plan.conditions == conditions]
        first = [one for one in usable[:-LOOKS_BACK] if one[0] == self.base]
        self.earlier = first + usable[-LOOKS_BACK:]
        looks = {one.plan.name: one.plan.items for _, one in self.earlier if AGAIN not in one.plan.name}
        self.asked = [[item.question for item in items] for items in looks.values()]
        self.part = max((len(keys) + 1) // 2, min(len(keys), PART))
        self.most = max(self.part, min(self.settings.gate_answers, REPEATS * len(keys)))

    @property
    def first(self) -> EvaluationPlan:
        """What the incumbent is asked before the update, and the candidate first of all."""
        return self.plan(self.part)

    def plan(self, size: int) -> EvaluationPlan:
        """Give the first items of all that may be asked at this look, questions first that were not asked of late."""
        conditions = conditions_of(self.settings, self.placement)
        return make_plan(self.name, self.questions.questions, self.asked, size, conditions)

    def again(self, version: int, size: int) -> EvaluationPlan:
        """Give the first items of what a forebear may be asked besides."""
        name = f"{self.name}{AGAIN}{version}"
        return make_plan(name, self.questions.questions, (), size, conditions_of(self.settings, self.placement))

    def examine(
        self, before: Scores, ask: Ask, vitals: Vitals | None = None, clock: Callable[[], float] = time.monotonic
    ) -> GateResult:
        """Ask the candidate, and go on until it is decided or the budget is spent.

        Args:
            before: the incumbent's answers to `first`.
            ask: asks a version the items of a plan: the candidate, and, while it is undecided, the incumbent and the
                base again. What it raises ends the look.
            vitals: figures of the update, if there are any.
            clock: seconds; the budget is `gate_answers` items or `gate_seconds`, whichever ends first.

        """
        until = clock() + self.settings.gate_seconds
        found = _Found(self, before, ask(self.candidate, self.first))
        if (words := self._collapse(found, vitals)) is not None:
            return found.result("refuse", words, None)
        if found.nothing_graded:
            return self._without_signal(found, None, "no held-out answer could be graded; see that the graders work")
        while True:
            spent = len(found.after.outcomes) >= self.most or clock() >= until
            judgement = found.judgement(final=spent)
            if judgement.decision != "undecided" and (spent or not found.unconfirmed(judgement)):
                break
            found.ask_more(ask, judgement)
        if judgement.decision == "refuse":
            return found.result("refuse", f"the gate refused the candidate: {told(judgement)}", judgement)
        if found.blind(judgement):
            why = f"nothing the gate asks is answered right: {told(judgement)}. Give it prompts the policy can answer"
            return self._without_signal(found, judgement, why)
        return found.result("pass", f"the gate passed the candidate: {told(judgement)}", judgement)

    def _without_signal(self, found: "_Found", judgement: Judgement | None, why: str) -> GateResult:
        serve = self.settings.gate_no_signal == "promote"
        words = f"the gate saw nothing: {why}" + ("; LEPO_GATE_NO_SIGNAL=promote lets it pass" if serve else "")
        return found.result("pass" if serve else "hold", words, judgement)

    def _collapse(self, found: "_Found", vitals: Vitals | None) -> str | None:
        """Say in what the candidate has collapsed, if it has."""
        share = self.settings.gate_collapse
        if vitals is not None and vitals.entropy_after < share * vitals.entropy_before:
            return (
                f"the candidate's entropy fell from {vitals.entropy_before:.3f} to {vitals.entropy_after:.3f} nats in "
                f"one update (LEPO_GATE_COLLAPSE {share:g}); lower the learning rate"
            )
        old, new = found.before.tokens, found.after.tokens
        if not old or not new:
            return None
        long, longer = sum(old) / len(old), sum(new) / len(new)
        empty, emptier = (sum(count == 0 for count in lengths) / len(lengths) for lengths in (old, new))
        if emptier - empty > 1 - share:
            return f"{emptier:.0%} of the candidate's answers are empty, {empty:.0%} before"
        if not share * long <= longer <= max(long, 1.0) / max(share, 1e-9):
            return (
                f"the candidate's answers are {longer:.0f} tokens long on average, {long:.0f} before "
                f"(LEPO_GATE_COLLAPSE {share:g})"
            )
        return None


class _Found:
    """What has been asked at this look so far, beside what was known before."""

    def __init__(self, look: Look, before: Scores, after: Scores) -> None:
        self.look, self.before, self.after = look, before, after
        self.again: dict[int, Scores] = {}  # of base and best
        known = rounds_of(look.earlier, look.questions)
        self._difficulty = difficulty(known)
        self._measured = self._read(known)

    @property
    def nothing_graded(self) -> bool:
        """Whether candidate and incumbent share no two graded answers."""
        pairs = zip(self.before.outcomes, self.after.outcomes, strict=False)
        return sum(old is not None and new is not None for old, new in pairs) < 2

    def judgement(self, *, final: bool, after: Scores | None = None) -> Judgement:
        """Judge by all that is known."""
        look = self.look
        now = [(look.incumbent, self.before), (look.candidate, after or self.after)]
        now += self.again.items()
        return judge(
            [*self._measured, *self._read(rounds_of(now, look.questions))],
            look.candidate,
            look.incumbent,
            look.base,
            margin=look.settings.gate_margin,
            alpha=look.settings.gate_alpha,
            final=final,
        )

    def blind(self, passed: Judgement) -> bool:
        """Whether a candidate that answers everything wrong would have passed as well, and this one is no better."""
        worst = replace(self.after, outcomes=tuple(0.0 if one is not None else None for one in self.after.outcomes))
        risen = any(one.role == "incumbent" and one.difference > 0 for one in passed.comparisons)
        return not risen and self.judgement(final=True, after=worst).decision == "pass"

    def unconfirmed(self, refused: Judgement) -> bool:
        """Whether all that speaks against a candidate is a best version that could be asked anew and was not yet.

        Who is the best of many was lucky too, so its old scores alone refuse nobody.
        """
        against = [one for one in refused.comparisons if one.high < 0.0]
        return bool(against) and all(
            one.role == "best" and one.version not in self.again and self._more_of(one.version).items for one in against
        )

    def ask_more(self, ask: Ask, judgement: Judgement) -> None:
        """Ask the next part of the plan, and base or best more where it is by them that it is undecided."""
        look = self.look
        for one in judgement.comparisons:
            doubtful = one.role != "incumbent" and one.low <= -look.settings.gate_margin
            if doubtful and (more := self._more_of(one.version)).items:
                answered = ask(one.version, more)
                known = self.again.get(one.version)
                self.again[one.version] = answered if known is None else known + answered
        done = len(self.after.outcomes)
        more = look.plan(min(look.most, done + look.part)).after(done)
        self.before += ask(look.incumbent, more)
        self.after += ask(look.candidate, more)

    def result(self, decision: Decision, words: str, judgement: Judgement | None) -> GateResult:
        """Put together what the look came to."""
        look = self.look
        scores = [(look.candidate, self.after), (look.incumbent, self.before)]
        scores += self.again.items()
        figures: dict[str, Any] = {
            "decision": decision,
            "asked": {
                "candidate": len(self.after.outcomes),
                "incumbent": len(self.before.outcomes),
                "again": {str(version): len(scores.outcomes) for version, scores in self.again.items()},
            },
            "before": _mean(self.before.graded),
            "after": _mean(self.after.graded),
            "ungraded": self.after.outcomes.count(None),
        }
        if judgement is not None:
            figures["behind"] = judgement.behind
            figures["beside"] = {one.role: asdict(one) for one in judgement.comparisons}
        better = self._better(judgement) if decision == "refuse" and judgement is not None else None
        return GateResult(decision, words, figures, tuple(scores), better)

    def _better(self, refused: Judgement) -> int | None:
        """Give the version that should serve instead of what does: it can be loaded, and was asked anew or enough."""
        version = refused.better
        if version is None or version not in self.look.reachable:
            return None
        sure = version == self.look.base or version in self.again or not self._more_of(version).items
        return version if sure else None

    def _more_of(self, version: int) -> EvaluationPlan:
        """Give what a forebear is asked next: nothing where it is out of reach or was asked enough in its life."""
        look = self.look
        here = len(self.again[version].outcomes) if version in self.again else 0
        before = sum(len(scores.outcomes) for one, scores in look.earlier if one == version)
        more = min(AGAIN_PARTS * look.part, AGAIN_LOOKS * look.most - before - here)
        return look.again(version, here + (max(0, more) if version in look.reachable else 0)).after(here)

    def _read(self, rounds: Iterable[Round]) -> list[Measured]:
        measured = (measure(one, self._difficulty) for one in rounds)
        return [one for one in measured if one is not None]


def no_questions(settings: Settings) -> GateResult:
    """Say what happens to a candidate where there is nothing to ask it."""
    figures: dict[str, Any] = {"asked": {"candidate": 0, "incumbent": 0, "again": {}}}
    if settings.gate_no_signal == "promote":
        words = "there are no held-out prompts; LEPO_GATE_NO_SIGNAL=promote lets the candidate pass unseen"
        return GateResult("pass", words, {"decision": "pass", **figures})
    return GateResult(
        "hold", f"the gate saw nothing, there are no held-out prompts: {HOW_TO}", {"decision": "hold", **figures}
    )


def recorded_of(rows: Iterable[tuple[int, Mapping[str, Any] | None]]) -> list[Recorded]:
    """Read (version, detail) of rows of `evaluations`, in their order; rows without scores are left out."""
    read = ((version, read_scores(detail)) for version, detail in rows)
    return [(version, scores) for version, scores in read if scores is not None]


def rounds_of(recorded: Iterable[Recorded], questions: EvaluationSet) -> list[Round]:
    """Put together the scores of one plan, as far as its questions are still asked."""
    plans: dict[str, dict[int, Scores]] = {}
    for version, scores in recorded:
        plans.setdefault(scores.plan.name, {})[version] = scores
    rounds = []
    for versions in plans.values():
        items = max((scores.plan.items for scores in versions.values()), key=len)
        kept = [place for place, item in enumerate(items) if item.question in questions.questions]
        outcomes = {
            version: tuple(scores.outcomes[place] for place in kept if place < len(scores.outcomes))
            for version, scores in versions.items()
        }
        rounds.append(Round(tuple(items[place].question for place in kept), outcomes))
    return rounds


def told(judgement: Judgement) -> str:
    """Write the figures of a judgement as a sentence."""
    parts = [
        f"{one.difference:+.3f} against {_name(one.role, one.version)} ({one.low:+.3f} to {one.high:+.3f})"
        for one in judgement.comparisons
    ]
    return ", ".join(parts) + ("; what serves is itself behind" if judgement.behind else "")


def _name(role: str, version: int) -> str:
    return {"incumbent": f"version {version}, which serves", "base": "the base"}.get(
        role, f"the best, version {version}"
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
