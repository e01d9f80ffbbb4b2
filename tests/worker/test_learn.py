"""The loop on a real database with a real model: what is learned, what is not, and what is left behind."""

from sqlalchemy import select

from app.store.tables import Alias, Evaluation
from tests.worker.world import World, even
from training.checkpoint import verify
from training.policy import fingerprint
from worker.learn import learn


def test_grades_become_a_policy_that_serves(world: World) -> None:
    ids = world.lessons()
    assert learn(world.shop) == "promoted"
    serving = world.serving()
    assert serving.version == 1
    manifest = verify(world.checkpoints_dir / "v00000001")
    assert manifest.fingerprint == serving.digest == fingerprint(world.policy().model)
    assert set(world.claims()) == set(ids)
    (job,) = world.jobs()
    assert (job.status, job.verdict, job.result_checkpoint_id) == ("succeeded", "promoted", serving.id)
    assert job.metrics["update"]["rollouts"] == world.reasons()["learned"]
    assert learn(world.shop) == "idle"


def test_the_policy_gets_better_update_by_update(world: World) -> None:
    prompts = [f"w{index}" for index in range(2, 30)]

    def rate() -> float:
        answers = [one for _, one in world.ask(prompts, choices=8)]
        return sum(map(even, answers)) / len(answers)

    before = rate()
    for _ in range(6):
        world.lessons()
        assert learn(world.shop) == "promoted"
    after = rate()
    assert before < 0.7
    assert after > before + 0.2
    assert world.serving().version == 6
