"""Pieces of SVG: elements with attributes, escaped. Leaves out what is drawn."""

from collections.abc import Iterable

from markupsafe import Markup, escape

Value = str | float | int | None


def element(name: str, *inside: str, **attributes: Value) -> Markup:
    """Write an element; `class_` is `class`, `_` in a name is `-`, None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(rounded(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    content = Markup("").join(inside)
    return Markup(f"<{name}{written}>{content}</{name}>") if inside else Markup(f"<{name}{written}/>")  # noqa: S704


def text(words: str, x: float, y: float, class_: str = "", anchor: str = "start") -> Markup:
    """Write words at a place."""
    return element("text", escape(words), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def title(words: str) -> Markup:
    """Write what is shown where the pointer rests, and read aloud."""
    return element("title", escape(words))


def picture(width: float, height: float, label: str, parts: Iterable[str], class_: str = "") -> Markup:
    """Write a whole picture that fills its place; `label` is what it says to who cannot see it."""
    return element(
        "svg",
        title(label),
        *parts,
        viewBox=f"0 0 {rounded(width)} {rounded(height)}",
        role="img",
        aria_label=label,
        class_=f"picture {class_}".strip(),
    )


def rounded(value: Value) -> str:
    """Write a coordinate with two digits, and words as they are."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
