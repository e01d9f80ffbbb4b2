"""Messages of a conversation as they arrive, and as a chat template takes them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from app.api.http.fields import Text, only


class TextPart(BaseModel):
    """One part of a message; only text is understood."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One message. Further fields, such as those of an earlier answer sent back, are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart] | Text | None = None
    name: Text | None = None
    tool_calls: Annotated[Any, AfterValidator(only([]))] = None
    function_call: Annotated[Any, AfterValidator(only())] = None

    @property
    def text(self) -> str:
        """The content as one text; parts stand on lines of their own."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, Any]:
        """Show the chat template what it needs."""
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": self.text, **named}
