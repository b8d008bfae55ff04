"""What all parts of a result have in common, in a file of its own, since parts of several packages are built of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    """A closed, immutable part of a result; NaN and Infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MemberWidths(Part):
    """The width vector of one member; ``width`` is its value where all free widths are equal, else null."""

    widths: tuple[int, ...] = Field(min_length=1)
    width: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _tied_width(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("width") is None and data.get("widths"):
            widths = tuple(data["widths"])
            return {**data, "width": widths[0] if len(set(widths)) == 1 else None}
        return data


def named_widths(widths: tuple[int, ...]) -> str:
    """The width of a member, or all of them where they differ.

    >>> named_widths((7, 7)), named_widths((7, 9))
    ('7', '(7, 9)')
    """
    return str(widths[0]) if len(set(widths)) == 1 else f"({', '.join(map(str, widths))})"
