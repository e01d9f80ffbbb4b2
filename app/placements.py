"""Where this service's latent steps sit when a request does not say, and what a request may choose.

The settings say it, else the model: where its configuration names a placement, it was trained so; a chat model that
names none answers in whole sentences, by its thinking part or by a preamble; and a plain completion of such a model
takes no latent steps unless it asks for them, because they would be the first words of the continuation. The server
that answers and the worker that asks the gate's questions both read it here. Leaves out what a placement is
(`training.placement`).
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from app.settings import Settings
from training.models.policy import Policy
from training.placement import Placement, PlacementName, declared_placement, own_placement, placement_of


@dataclass(frozen=True, slots=True, eq=False)
class Placements:
    """The placements of one model."""

    of_chat: Placement  # of a conversation that does not say
    of_text: Placement | None  # of a plain prompt that does not say; None: it takes no latent steps then
    tokenizer: PreTrainedTokenizerBase
    settings: Settings

    def named(self, name: PlacementName) -> Placement:
        """Give the placement that a request names.

        Raises:
            ValueError: this model has no place for it.

        """
        return placement_of(name, self.tokenizer, self.settings.latent_lead_in, self.settings.latent_lead_out)


def placements_of(settings: Settings, policy: Policy) -> Placements:
    """Settle the placements of a service.

    Raises:
        ValueError: LEPO_LATENT_PLACEMENT names one that the model has no place for.

    """
    config, tokenizer = policy.model.config, policy.tokenizer
    chosen = settings.latent_placement
    name = own_placement(config, tokenizer) if chosen == "auto" else chosen
    try:
        default = placement_of(name, tokenizer, settings.latent_lead_in, settings.latent_lead_out)
    except ValueError as error:
        raise ValueError(f"LEPO_LATENT_PLACEMENT={chosen}: {error}") from error
    foreign = chosen == "auto" and tokenizer.chat_template and declared_placement(config) is None
    return Placements(default, None if foreign else default, tokenizer, settings)
