"""What the routes of grading send, as models. Leaves out writing it (each route's own file)."""

from typing import Literal

from pydantic import Field

from app.api.http.pages import Page
from app.api.http.shapes import AnswerId, GradeId, Reward, SessionId, Shape, Time, identifier
from app.store.episodes import Rule


class GraderOfGrade(Shape):
    """Who graded."""

    kind: str = Field(description="`client`, `user`, or a kind of this server's own graders.", examples=["client"])
    id: str = Field(description="Below the key it came with: `<key id>/<grader id>`.", examples=["ab12cd34ef/alice"])
    version: str | None


class Grade(Shape):
    """One entry of an answer's ledger."""

    id: GradeId
    object: Literal["grade"]
    interaction_id: AnswerId
    state: Literal["graded", "corrected", "failed", "retracted"]
    value: float | None = Field(description="0 is wrong, 1 is right; null unless `graded`.", examples=[1.0])
    grader: GraderOfGrade
    source: Literal["caller", "scoped", "request"] = Field(
        description="`caller`: it came with a key. Else this server ran the grader that a key with (`scoped`) or "
        "without (`request`) the scope `grade` named."
    )
    counts: bool = Field(description="Whether it makes rewards.")
    session_grade: GradeId | None = Field(description="The grade of a session that it follows from.")
    credit: float | None = Field(description="This turn's share of that grade, in (0, 1].")
    comment: str | None
    correction: str | None = Field(description="What the answer should have been.")
    supersedes: GradeId | None = Field(description="The earlier entry of the same grader.")
    created_at: Time


class GradeMade(Grade):
    """An entry just made."""

    reward: Reward | None = Field(description="Of the answer, with this entry.")


class Grades(Page[Grade]):
    """An answer's ledger, in the order of writing."""

    reward: Reward | None = Field(description="What its entries come to.")


class GradingToken(Shape):
    """A token with which a browser grades one answer."""

    id: str = identifier("token")
    token: str = Field(description="Sent as a bearer key; shown this once.", examples=["lepo-grade...."])
    interaction_id: AnswerId
    grades: int = Field(description="Entries it may write.")
    expires_at: int = Field(description="Unix seconds.")


class TokensClosed(Shape):
    """Tokens taken back."""

    object: Literal["grading_tokens"]
    revoked: int = Field(description="How many were open.")


class Credit(Shape):
    """Which turns share the grade of a session."""

    rule: Rule
    discount: float | None = Field(description="With `discounted`: the credit that is left one turn earlier.")


class Session(Shape):
    """Turns that belong together."""

    id: SessionId
    object: Literal["session"]
    name: str = Field(description="As its key calls it.")
    key: str = Field(description="Whose it is.")
    turns: int = Field(description="Committed so far; the last one's number.")
    credit: Credit
    created_at: Time
    last_turn_at: Time


class AnswerOfTurn(Shape):
    """One answer of a turn."""

    interaction_id: AnswerId
    completion_id: str
    choice: int
    policy_version: int
    follows: AnswerId | None = Field(description="The answer its prompt goes on from, token for token.")
    answer: str
    finish_reason: str
    created_at: Time
    reward: Reward | None
    grades: list[Grade]


class Turn(Shape):
    """One turn with its answers."""

    turn: int = Field(description="From 1.")
    answers: list[AnswerOfTurn]


class Share(Shape):
    """What a turn gets of a grade."""

    turn: int
    interaction_id: AnswerId
    credit: float


class SessionGrade(Shape):
    """One entry of a session's ledger."""

    id: GradeId
    object: Literal["session.grade"]
    session_id: SessionId
    state: Literal["graded", "retracted"]
    value: float | None
    credit: Credit
    through_turn: int = Field(description="The last turn there was when it was given.")
    turns: list[Share] = Field(description="What it credits.")
    grader: GraderOfGrade
    comment: str | None
    supersedes: GradeId | None
    created_at: Time


class SessionRead(Session):
    """A session with a page of its turns, and the grades of the whole."""

    data: list[Turn]
    has_more: bool
    next_after: str | None = Field(description="`after` of the next page: the last turn's number.")
    grades: list[SessionGrade]


class Sessions(Page[Session]):
    """Sessions, the newest first."""


class GraderRead(Shape):
    """A grader as its spec was understood."""

    kind: str
    id: str
    version: str | None


class GraderValid(Shape):
    """A spec that is one."""

    valid: Literal[True]
    grader: GraderRead


class Verdict(Shape):
    """What a grader says of an answer."""

    state: Literal["graded", "no_grade", "failed"]
    value: float | None = Field(description="Null unless `graded`.")
    detail: str = Field(description="For people.")
