"""A row as text: a question put as a model was taught to be asked, its answer, and the border between the two.

What a row holds is text: `<|end|>` in an answer is no end token, whether or not the tokenizer would take it for one.
Special tokens that a template writes are tokens. The character U+FDD0, which Unicode sets aside for programs' own use,
is dropped from rows.

Torch is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trials.prompts import AutoPrompt, ChatPrompt, PlainPrompt, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trials.benchmarks import Row

_CUT = "\ufdd0"  # a mark within what looks like a special token: whatever a template does to a text, it moves along
_TODAY = "{% macro strftime_now(format) %}{{ date_string }}{% endmacro %}\n"  # some templates know no `date_string`
_PROBE = "Ada"  # an answer, to see what a template puts behind it
_OTHER = "declare another as model.prompt.template, or set model.prompt.type to plain"


@dataclass(frozen=True)
class Wording:
    """A row as text.

    Attributes:
        whole: Prompt and answer, without the end token.
        border: Where the prompt ends. Blanks before an answer are the answer's in a plain text; in a chat, what the
            template puts before an answer is the prompt's.
        answer: Where the text of `Row.answer` begins, leading blanks included that a template takes away.
        cuts: Places that no token may reach over: within what looks like a special token, and is none.
    """

    whole: str
    border: int
    answer: int
    cuts: tuple[int, ...]


@dataclass(frozen=True)
class Closing:
    """How answers end.

    Attributes:
        token: The end token; None where neither the template nor the tokenizer has one.
        before: What a chat template puts between an answer and its end token.
        tail: All that it puts behind an answer.
    """

    token: int | None
    before: str = ""
    tail: str = ""


def resolved(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> PlainPrompt | ChatPrompt:
    """The prompt that auto stands for with this tokenizer.

    Raises:
        ValueError: A chat is asked for, and there is no template.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if isinstance(prompt, AutoPrompt):
        return ChatPrompt() if has_template else PlainPrompt()
    if isinstance(prompt, ChatPrompt) and prompt.template is None and not has_template:
        raise ValueError(
            "model.prompt.type is chat, but the tokenizer has no chat template; "
            "declare one as model.prompt.template, or set model.prompt.type to plain"
        )
    return prompt


def plain_text(template: str, question: str, answer: str) -> str:
    """A plain prompt's template with question and answer filled in; braces in these are just braces."""
    return template.removesuffix("{answer}").replace("{question}", question) + answer


def closing(tokenizer: PreTrainedTokenizerBase, prompt: PlainPrompt | ChatPrompt) -> Closing:
    """How answers end: in a chat with the first token that the template puts behind them, else with the tokenizer's."""
    if isinstance(prompt, PlainPrompt):
        return Closing(tokenizer.eos_token_id)
    ((_, body),) = _conversations(tokenizer, [("?", _PROBE)], prompt)
    tail = body.rpartition(_PROBE)[2]
    # Of the added tokens those that are not special can be blanks, which close nothing.
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    found = _any_of(added).search(tail)
    if found is None:
        return Closing(tokenizer.eos_token_id, tail=tail)
    return Closing(tokenizer.added_tokens_encoder[found[0]], tail[: found.start()], tail)


def word(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], prompt: PlainPrompt | ChatPrompt, end: Closing
) -> list[Wording]:
    """Rows as texts.

    Raises:
        ValueError: The chat template refuses a conversation, has no border in it, or changes an answer.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*tokenizer.all_special_tokens, *([] if end.token is None else [_name(tokenizer, end.token)])}
    pattern = _any_of(special)
    pairs = [(_marked(row.question, pattern), _marked(row.answer, pattern)) for row in rows]
    asked = [pair for row, pair in zip(rows, pairs, strict=True) if not row.verbatim]
    chats = iter(_conversations(tokenizer, asked, prompt) if isinstance(prompt, ChatPrompt) else [])
    worded = []
    for row, (question, answer) in zip(rows, pairs, strict=True):
        if row.verbatim:
            worded.append(_wording(row, question, answer))
        elif isinstance(prompt, PlainPrompt):
            before = plain_text(prompt.template, question, "")
            asking = before.rstrip(" ")
            worded.append(_wording(row, asking, before[len(asking) :] + answer))
        else:
            before, body = next(chats)
            shown = body.removesuffix(end.tail) if body.endswith(end.tail) else ""
            worded.append(_wording(row, before, shown, end.before))
    return worded


def _name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern of any of the texts, the longest first; of none where there is none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _marked(text: str, special: re.Pattern[str]) -> str:
    """A text with a mark behind the first character of whatever looks like a special token."""
    return special.sub(lambda found: found[0][0] + _CUT + found[0][1:], text.replace(_CUT, ""))


def _wording(row: Row, before: str, body: str, after: str = "") -> Wording:
    """A row's text from its parts, of which the first two may have marks."""
    *pieces, _ = (before + body).split(_CUT)
    before, body = before.replace(_CUT, ""), body.replace(_CUT, "")
    answer = row.answer.replace(_CUT, "")
    if answer.strip() not in body:
        raise ValueError(f"the chat template does not show the answer {answer[:60]!r} as it is; {_OTHER}")
    start = len(before) + body.index(answer.strip()) - (len(answer) - len(answer.lstrip()))
    return Wording(before + body + after, len(before), start, tuple(accumulate(map(len, pieces))))


def _conversations(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], prompt: ChatPrompt
) -> list[tuple[str, str]]:
    """Of questions and answers in a chat template the text that asks for the answer, and the rest."""
    if not pairs:
        return []
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    asked = [[*system, {"role": "user", "content": question}] for question, _ in pairs]
    told = [[*turns, {"role": "assistant", "content": answer}] for turns, (_, answer) in zip(asked, pairs, strict=True)]
    settings: dict[str, Any] = {
        "tokenize": False,
        "chat_template": _TODAY + tokenizer.get_chat_template(prompt.template),
        "date_string": prompt.date,
        "enable_thinking": False,  # else an empty thought would be the beginning of every answer
    }
    try:
        prompts = tokenizer.apply_chat_template(asked, add_generation_prompt=True, **settings)
        wholes = tokenizer.apply_chat_template(told, **settings)
    except TemplateError as error:
        remedy = "" if prompt.system is None else "remove model.prompt.system if it is for that turn, or "
        raise ValueError(f"the chat template fails ({error}); {remedy}{_OTHER}") from error
    for before, whole in zip(prompts, wholes, strict=True):
        if not whole.startswith(before):
            raise ValueError(
                f"the chat template asks for an answer with {before[-60:]!r}, but with the answer in it writes "
                f"{whole[max(0, len(before) - 60) :][:60]!r} there, so there is no border between the two; {_OTHER}"
            )
    return [(before, whole.removeprefix(before)) for before, whole in zip(prompts, wholes, strict=True)]
