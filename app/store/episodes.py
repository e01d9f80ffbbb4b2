"""Grades of whole sessions (episodes), and what they are worth to each turn.

A grade of an episode is one entry of a ledger of its own (`session_grades`), with the rule by which its turns share it:

    last_turn    the last turn there was when it was given
    all_turns    every turn alike
    discounted   `discount` to the power of the turns that came after; what falls below 1% is left out

What follows from it is written into the answers' ledgers at once: an entry of the kind `episode` for each credited
turn, with the grade as given and the turn's credit. So whatever counts grades counts these, once, and a later grade
of the same grader supersedes or takes back what its earlier one said of each turn. Of a turn with several choices the
one is credited that a later turn went on from; in the last turn the caller may name it.

Leaves out the reward of an answer itself (`app.store.grades`), advantages (`training.advantage`), and why things are so
(docs/decisions/episodes.md).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import Uuid, any_, bindparam, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.errors import BadRequest, NotFound
from app.identifiers import show
from app.store.base import Json
from app.store.grades import LATEST, Entry, note_graded
from app.store.session_tables import ClientSession, SessionGrade
from app.store.sessions import answers
from app.store.tables import ApiKey, Grade, Interaction

Rule = Literal["last_turn", "all_turns", "discounted"]

KIND: Final = "episode"  # of the entries that follow from a grade of a session
LEAST_CREDIT: Final = 0.01
COUNTING: Final = text("""
    SELECT session_id, through_turn
    FROM (
        SELECT DISTINCT ON (session_id, grader_kind, grader_id) *
        FROM session_grades
        WHERE session_id = ANY(:ids)
          AND NOT EXISTS (SELECT 1 FROM api_keys WHERE id = session_grades.api_key_id AND trust = 'quarantined')
        ORDER BY session_id, grader_kind, grader_id, entry DESC
    ) AS latest
    WHERE state = 'graded'
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))


@dataclass(frozen=True, slots=True)
class Credit:
    """How the turns of an episode share its grade. Example: `Credit("discounted", 0.9)`."""

    rule: Rule = "all_turns"
    discount: float | None = None  # in (0, 1), where the rule is `discounted`; else None

    def of(self, turn: int, last: int) -> float:
        """Give the credit of a turn, in [0, 1], when `last` is the last one."""
        if self.rule == "last_turn":
            return float(turn == last)
        if self.discount is None:
            return 1.0
        credit: float = self.discount ** (last - turn)
        return credit if credit >= LEAST_CREDIT else 0.0


@dataclass(frozen=True, slots=True)
class EpisodeReward:
    """What grades of its episode come to for one turn."""

    value: float  # mean of what its graders gave, each weighed by this turn's credit
    weight: float  # this turn's credit, the mean over the graders that knew it; in (0, 1]
    opening: str  # names what the episode began with: key, first prompt, task


def grade_session(
    session: Session, row: ClientSession, entry: Entry, credit: Credit | None, choice: int | None = None
) -> SessionGrade:
    """Append a grade of a session, and what follows from it for its turns; or take one back.

    Args:
        session: a transaction.
        row: the session.
        entry: `graded` with a value, or `retracted`; its `correction` is not looked at.
        credit: which turns it is for; None: as the session's last grade.
        choice: which answer of the last turn is meant, where that has several.

    Raises:
        BadRequest: nothing would be credited: there is no turn, or it is not said which choice is meant.
        NotFound: the session is gone, or there is nothing to take back.

    """
    if entry.api_key_id is not None:  # before anything that trusting a key locks after it
        session.execute(
            select(ApiKey.id).where(ApiKey.id == entry.api_key_id).with_for_update(read=True, key_share=True)
        )
    found = session.scalar(
        select(ClientSession)
        .where(ClientSession.id == row.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if found is None:
        raise NotFound(f"There is no session {show('sess', row.id)}.")
    before = latest_entry(session, row.id, entry)
    if entry.state == "retracted" and (before is None or before.state == "retracted"):
        raise NotFound(f"{entry.grader_kind} {entry.grader_id} has no grade on {show('sess', row.id)} to take back.")
    credit = credit or credit_of(found)
    shares: dict[UUID, float] = {}
    if entry.state == "graded":
        shares = credited(answers(session, found.id), found.turns, credit, choice)
        found.credit, found.discount = credit.rule, credit.discount
    grade = SessionGrade(
        session_id=found.id,
        state=entry.state,
        value=entry.value,
        credit=credit.rule,
        discount=credit.discount,
        through_turn=found.turns,
        grader_kind=entry.grader_kind,
        grader_id=entry.grader_id,
        grader_version=entry.grader_version,
        comment=entry.comment,
        supersedes_id=before.id if before else None,
        api_key_id=entry.api_key_id,
    )
    session.add(grade)
    session.flush()
    spread(session, grade, shares)
    return grade


def credit_of(row: ClientSession) -> Credit:
    """Read a session's rule."""
    rules: dict[str, Rule] = {"last_turn": "last_turn", "all_turns": "all_turns", "discounted": "discounted"}
    return Credit(rules[row.credit], row.discount)


def latest_entry(session: Session, session_id: UUID, entry: Entry) -> SessionGrade | None:
    """Read a grader's last entry on a session."""
    query = select(SessionGrade).where(
        SessionGrade.session_id == session_id,
        SessionGrade.grader_kind == entry.grader_kind,
        SessionGrade.grader_id == entry.grader_id,
    )
    return session.scalar(query.order_by(SessionGrade.entry.desc()).limit(1))


def credited(rows: Sequence[Interaction], last: int, credit: Credit, choice: int | None) -> dict[UUID, float]:
    """Share a grade among the answers of a session: answer -> credit, those without any left out.

    Raises:
        BadRequest: no answer gets any.

    """
    turns: dict[int, list[Interaction]] = defaultdict(list)
    for row in rows:
        assert row.turn is not None, "an answer of a session has a turn"
        turns[row.turn].append(row)
    followed = {row.follows_id for row in rows}
    shares: dict[UUID, float] = {}
    for turn, several in turns.items():
        share = credit.of(turn, last)
        meant = the_one(several, followed, choice if turn == last else None)
        if share and meant is not None:
            shares[meant.id] = share
    if not shares and len(turns.get(last, ())) > 1:
        words = "The last turn has several choices, and no turn went on from one; name the one you mean by `choice`."
        raise BadRequest(words, param="choice")
    if not shares:
        raise BadRequest(
            "No answer of this session is credited by that rule; ask something first, or name another.", param="credit"
        )
    return shares


def the_one(
    several: Sequence[Interaction], followed: Collection[UUID | None], choice: int | None
) -> Interaction | None:
    """Pick the answer of a turn that the episode went on with; None: nobody can know."""
    if choice is not None:
        return next((row for row in several if row.choice == choice), None)
    if len(several) == 1:
        return several[0]
    return next((row for row in several if row.id in followed), None)


def spread(session: Session, grade: SessionGrade, shares: Mapping[UUID, float]) -> None:
    """Write into the ledgers of answers what follows from a grade, and take back what the grader's last one said.

    Rows are locked in the order of their ids.
    """
    name = f"{grade.grader_kind}/{grade.grader_id}"
    standing = {
        row.interaction_id: row
        for row in session.scalars(
            select(Grade)
            .join(Interaction, Interaction.id == Grade.interaction_id)
            .where(Interaction.session_id == grade.session_id, Grade.grader_kind == KIND, Grade.grader_id == name)
            .order_by(Grade.entry)
        )
    }
    meant = {one for one, row in standing.items() if row.state == "graded"} | set(shares)
    these = any_(literal(list(meant), ARRAY(Uuid)))
    session.execute(
        select(Interaction.id).where(Interaction.id == these).order_by(Interaction.id).with_for_update(key_share=True)
    )
    for one in sorted(meant):
        before = standing.get(one)
        share = shares.get(one)
        session.add(
            Grade(
                interaction_id=one,
                state="retracted" if share is None else "graded",
                value=None if share is None else grade.value,
                grader_kind=KIND,
                grader_id=name,
                grader_version=grade.grader_version,
                supersedes_id=before.id if before else None,
                api_key_id=grade.api_key_id,
                session_grade_id=grade.id,
                credit=share or 0.0,
            )
        )
    session.flush()
    note_graded(session, *sorted(meant))


def ledger(session: Session, session_id: UUID) -> list[SessionGrade]:
    """Read the entries on a session in the order of writing."""
    query = select(SessionGrade).where(SessionGrade.session_id == session_id).order_by(SessionGrade.entry)
    return list(session.scalars(query))


def shares_of(session: Session, grade: SessionGrade) -> list[Json]:
    """Say which turns a grade is for, and by how much."""
    query = (
        select(Interaction.turn, Grade.interaction_id, Grade.credit)
        .join(Interaction, Interaction.id == Grade.interaction_id)
        .where(Grade.session_grade_id == grade.id, Grade.state == "graded")
        .order_by(Interaction.turn)
    )
    return [
        {"turn": turn, "interaction_id": show("int", one), "credit": credit}
        for turn, one, credit in session.execute(query)
    ]


def episode_rewards(session: Session, rows: Sequence[Interaction]) -> dict[UUID, EpisodeReward]:
    """Work out what grades of episodes come to for each of these answers; those with none are left out."""
    turns = {row.id: row for row in rows if row.credited and row.session_id is not None}
    if not turns:
        return {}
    sessions = {row.session_id for row in turns.values() if row.session_id is not None}
    through: dict[UUID, list[int]] = defaultdict(list)
    for session_id, last in session.execute(COUNTING, {"ids": sorted(sessions)}):
        through[session_id].append(last)
    openings = {
        row.id: f"{row.api_key_id}/{row.opening.hex()}"
        for row in session.scalars(
            select(ClientSession).where(ClientSession.id == any_(literal(list(sessions), ARRAY(Uuid))))
        )
    }
    said: dict[UUID, list[tuple[float, float]]] = defaultdict(list)
    query = select(LATEST.c.interaction_id, LATEST.c.value, LATEST.c.credit).where(
        LATEST.c.interaction_id == any_(literal(list(turns), ARRAY(Uuid))), LATEST.c.credit.is_not(None)
    )
    for one, value, credit in session.execute(query):
        said[one].append((float(value), float(credit)))
    found: dict[UUID, EpisodeReward] = {}
    for one, words in said.items():
        row = turns[one]
        assert row.session_id is not None and row.turn is not None, "a credited answer is a turn"  # noqa: PT018
        total = sum(credit for _, credit in words)
        knew = max(len(words), sum(last >= row.turn for last in through[row.session_id]))
        value = sum(value * credit for value, credit in words) / total
        found[one] = EpisodeReward(value, total / knew, openings[row.session_id])
    return found
