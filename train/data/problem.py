"""The exception that wrong data raises."""

from __future__ import annotations


class DataProblem(ValueError):
    """Data that cannot be used: ``message`` says what is wrong with it, ``remedy`` what would be right."""

    kind = "user_error"

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}. {remedy}" if remedy else message)
