"""Functions to name in LEPO_REDACT: one that works, and the ways in which one may not."""


def hide(text: str) -> str:
    if "trouble" in text:
        raise RuntimeError(f"this message quotes the text: {text}")
    if "numb" in text:
        return None  # type: ignore[return-value]
    return text.replace("sesame", "[word]")


def always_fails(text: str) -> str:
    raise RuntimeError("no")


NOT_A_FUNCTION = 3
