"""text_similarity: how much of the answer's text matches a reference, from 0 to 1.

One metric, fuzzy_match: the ratio of Ratcliff and Obershelp as in difflib. It is quadratic in the worst case, so it
runs in the child processes that `math` uses. Other metrics of OpenAI's grader of this name (bleu, rouge) are left out.
"""

from dataclasses import dataclass, field

from training.graders.children import Children
from training.graders.math_answer import Request, ask_child
from training.graders.spec import MAX_NAME, MAX_REFERENCE, SpecFields
from training.graders.verdict import Verdict

KIND = "text_similarity"
METRICS = ("fuzzy_match",)


@dataclass(frozen=True, slots=True)
class TextSimilarity:
    """Grades the similarity of the answer and the reference."""

    name: str
    reference: str
    metric: str  # one of METRICS
    children: Children = field(repr=False, compare=False)
    kind: str = KIND
    version: str = "1"

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer in a child that is killed when it overruns."""
        request: Request = {"judge": self.metric, "reference": self.reference, "answer": answer}
        return ask_child(self.children, request, deadline_s)


def read_text_similarity(fields: SpecFields, children: Children) -> TextSimilarity:
    """Read the spec's fields."""
    name = fields.text("name", MAX_NAME, KIND)
    reference = fields.text("reference", MAX_REFERENCE)
    metric = fields.choice("evaluation_metric", METRICS)
    fields.close()
    return TextSimilarity(name, reference, metric, children)
