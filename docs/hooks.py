"""What the guide's Markdown needs beyond MkDocs: formulas, and examples in docstrings.

Formulas become MathML, which browsers draw themselves: no script, no font, no network.
"""

import re
import xml.etree.ElementTree as etree

from latex2mathml.converter import convert
from markdown import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.plugins import event_priority

etree.register_namespace("", "http://www.w3.org/1998/Math/MathML")


@event_priority(100)  # before mkdocstrings copies the list of extensions
def on_config(config):
    """Add to MkDocs's Markdown, which mkdocstrings uses for docstrings too."""
    config.markdown_extensions.append(_GuideMarkdown())
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences.setdefault("custom_fences", []).append(
        {"name": "math", "class": "math", "format": _math_fence}
    )
    return config


def on_page_content(html, **kwargs):
    """Keep options in running text, such as `--data-dir`, from breaking at hyphens."""
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    parts[::2] = [_CODE.sub(_with_whole_options, part) for part in parts[::2]]
    return "".join(parts)


_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")


def _with_whole_options(match: re.Match) -> str:
    return re.sub(
        r"(?<![\w-])--?[a-z][\w-]*", r'<span class="option">\g<0></span>', match[0]
    )


class _GuideMarkdown(Extension):
    def extendMarkdown(self, md):
        md.preprocessors.register(_Examples(md), "examples", 40)
        # Between code spans (190) and escaped characters (180).
        for display, pattern in (
            ("inline", r"\\\\\((.+?)\\\\\)"),
            ("block", r"\\\\\[(.+?)\\\\\]"),
        ):
            processor = _Formula(pattern, md, display)
            md.inlinePatterns.register(processor, f"formula-{display}", 185)


class _Formula(InlineProcessor):
    r"""Formulas in docstrings: `\\(…\\)` in the line, `\\[…\\]` by themselves."""

    def __init__(self, pattern: str, md, display: str):
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m, data):
        html = mathml(m.group(1), self.display)
        return self.md.htmlStash.store(html), m.start(0), m.end(0)


class _Examples(Preprocessor):
    """Fence lines that begin with `>>>` or `...`, which Markdown takes for quotes."""

    def run(self, lines):
        fenced, inside = [], False
        for line in lines:
            is_code = line.startswith((">>> ", "... ") if inside else ">>> ")
            if is_code != inside:
                fenced += ["", "```pycon"] if is_code else ["```", ""]
                inside = is_code
            fenced.append(line)
        return [*fenced, "```"] if inside else fenced


def mathml(tex: str, display: str) -> str:
    """A formula as a MathML element."""
    root = etree.fromstring(convert(" ".join(tex.split()), display=display))
    _join_upright(root)
    return (
        etree.tostring(root, encoding="unicode").replace("ns0:", "").replace(":ns0", "")
    )


def _join_upright(element) -> None:
    r"""Make one word of what `\mathrm` gives letter by letter."""
    for row in element.iter():
        letters = list(row)
        if len(letters) > 1 and all(x.get("mathvariant") == "normal" for x in letters):
            letters[0].text = "".join(x.text for x in letters)
            for letter in letters[1:]:
                row.remove(letter)


def _math_fence(source, language, css_class, options, md, **kwargs) -> str:
    return f'<p class="{css_class}">{mathml(source, "block")}</p>'
