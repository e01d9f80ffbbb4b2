"""What the audit asks the database: one query for each thing that must not be, each counting how often it is.

Leaves out what is asked of the disk and of the server (`benchmarks.chaos.audit`).
"""
# ruff: noqa: S608 - the queries are put together from the constants of this file

from typing import Final

COUNTERS: Final = (
    "lost_interactions",
    "lost_grades",
    "double_trained",
    "wrong_serving",
    "burnt_answers",
    "half_checkpoints_served",
    "stuck_jobs",
    "leaked_files",
)
# Reasons for which the data itself is to blame. Our users' rollouts are all sound: `unreadable` is no excuse here.
OWN_REASONS: Final = ("no_exploration", "diverged", "no_group", "no_variance", "held_out", "correction_unusable")
OVERDUE_S: Final = 5.0  # beyond the end of a job's lease

SERVED: Final = "SELECT checkpoint_id FROM transitions WHERE to_state = 'serving'"
UNDECIDED: Final = "('candidate', 'held', 'shadow', 'canary')"
LOST_INTERACTIONS: Final = """
SELECT count(*) FROM unnest(CAST(:ids AS uuid[])) AS told(id)
WHERE NOT EXISTS (SELECT 1 FROM interactions i WHERE i.id = told.id)
"""
LOST_GRADES: Final = """
SELECT count(*) FROM unnest(CAST(:ids AS uuid[]), CAST(:interactions AS uuid[]), CAST(:values AS float8[]))
    AS told(id, interaction_id, value)
WHERE NOT EXISTS (
    SELECT 1 FROM grades g JOIN interactions i ON i.id = g.interaction_id
    WHERE g.id = told.id AND g.interaction_id = told.interaction_id AND g.value = told.value
    AND (i.graded_at IS NOT NULL OR NOT g.counts)
)
"""
DOUBLE: Final = {
    "two claims on one answer": "SELECT count(*) - count(DISTINCT interaction_id) FROM claims",
    "two policies of one job": "SELECT count(*) - count(DISTINCT job_id) FROM checkpoints WHERE job_id IS NOT NULL",
    "learned by a policy that never served": f"""
        SELECT count(*) FROM claims c WHERE c.outcome = 'learned' AND NOT EXISTS (
            SELECT 1 FROM checkpoints p WHERE p.job_id = c.job_id AND p.id IN ({SERVED}))""",
    "claims that are not what the update had in its batch": f"""
        SELECT coalesce(sum(abs(learned - said)), 0) FROM (
            SELECT CAST(j.metrics ->> 'rollouts' AS bigint) AS said,
                (SELECT count(*) FROM claims c WHERE c.job_id = j.id AND c.outcome = 'learned') AS learned
            FROM jobs j JOIN checkpoints p ON p.job_id = j.id WHERE p.id IN ({SERVED})) AS batches""",
}
WRONG: Final = {
    "not exactly one policy serves": "SELECT abs(count(*) - 1) FROM checkpoints WHERE state = 'serving'",
    "what serves is not what was last promoted or restored": """
        SELECT count(*) FROM checkpoints p WHERE p.state = 'serving' AND p.id IS DISTINCT FROM (
            SELECT checkpoint_id FROM transitions WHERE event IN ('promote', 'restore') ORDER BY entry DESC LIMIT 1)""",
    "an update took the place of another policy than it was made from": """
        SELECT count(*) FROM transitions t JOIN checkpoints p ON p.id = t.checkpoint_id
        WHERE t.event = 'promote' AND t.actor = 'worker' AND t.replaced_id IS DISTINCT FROM p.parent_id""",
    "answers by a policy that never served": f"""
        SELECT count(*) FROM interactions i WHERE i.checkpoint_id IN (
            SELECT id FROM checkpoints WHERE id NOT IN ({SERVED}))""",
    "a server took a policy that never served": f"""
        SELECT count(*) FROM swaps s JOIN checkpoints p ON p.version = s.to_version
        WHERE s.status = 'served' AND p.id NOT IN ({SERVED})""",
}
BURNT: Final = {
    "spent for a reason that is not their own": f"""
        SELECT count(*) FROM claims c JOIN interactions i ON i.id = c.interaction_id
        WHERE c.outcome = 'skipped' AND c.reason NOT IN {OWN_REASONS}
        AND NOT (c.reason = 'refused' AND i.refusals >= 2)""",
    "marked as claimed by nobody": """
        SELECT count(*) FROM interactions i WHERE i.claimed
        AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.interaction_id = i.id)""",
    "claimed and offered again": """
        SELECT count(*) FROM interactions i WHERE NOT i.claimed
        AND EXISTS (SELECT 1 FROM claims c WHERE c.interaction_id = i.id)""",
}
STUCK: Final = {
    "running beyond its lease": f"""
        SELECT count(*) FROM jobs WHERE status = 'running'
        AND lease_until < clock_timestamp() - make_interval(secs => {OVERDUE_S})""",
    "over, and its claims are not": f"""
        SELECT count(DISTINCT j.id) FROM claims c JOIN jobs j ON j.id = c.job_id
        WHERE c.outcome = 'claimed' AND j.finished_at IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM checkpoints p WHERE p.job_id = j.id AND p.state IN {UNDECIDED})""",
    "a policy without a fate": """
        SELECT count(*) FROM checkpoints p WHERE p.state = 'candidate' AND NOT EXISTS (
            SELECT 1 FROM jobs j WHERE j.id = p.job_id AND j.status = 'running')""",
}
HALF: Final = f"SELECT version, path, digest FROM checkpoints WHERE files_deleted_at IS NULL AND id IN ({SERVED})"
HALF_LOADED: Final = """
SELECT s.to_version FROM swaps s JOIN checkpoints p ON p.version = s.to_version
WHERE s.status = 'served' AND s.fingerprint IS NOT NULL AND s.fingerprint <> p.digest
"""
