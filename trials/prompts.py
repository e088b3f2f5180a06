"""Settings of prompts: how a question and its answer become one text.

A model answers as it was taught: measured with another prompt, a target model seems to have forgotten already.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from trials.settings import Frozen

PLAIN = "Question: {question}\nAnswer: {answer}"


class AutoPrompt(Frozen):
    """The tokenizer's chat template where it has one, else the plain text `Question: ... Answer: ...`."""

    type: Literal["auto"] = "auto"


class PlainPrompt(Frozen):
    """A text with the question and the answer in it; the tokenizer's end token closes the answer."""

    type: Literal["plain"] = "plain"
    template: str = Field(PLAIN, description="has {question}, and ends with {answer}")

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str) -> str:
        if template.count("{question}") != 1 or template.count("{answer}") != 1 or not template.endswith("{answer}"):
            raise ValueError(
                f"template {template!r} must have {{question}} once and end with {{answer}}, as in {PLAIN!r}"
            )
        return template


class ChatPrompt(Frozen):
    """A chat template: a turn of the user, a turn of the assistant, and the token that closes it."""

    type: Literal["chat"] = "chat"
    system: str | None = Field(None, description="text of the system turn; null: what the template does without one")
    date: str = Field("10 Apr 2025", description="for templates that print today's date, which would change results")
    template: str | None = Field(None, description="a Jinja chat template; null: the tokenizer's own")


AUTO = AutoPrompt()

Prompt = Annotated[AutoPrompt | PlainPrompt | ChatPrompt, Field(discriminator="type")]
