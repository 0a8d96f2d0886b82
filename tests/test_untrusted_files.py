"""Nothing that is read back executes code: what may run code is nowhere in the source."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("jax_lenet", "experiments") for path in (ROOT / name).rglob("*"))
MODULES = [path for path in SOURCES if path.suffix == ".py"]
TEMPLATES = [path for path in SOURCES if path.suffix == ".jinja"]

#: Modules whose readers run what a file says; a PyTorch file is a pickle.
READERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
READERS |= {"jsonpickle", "pandas", "runpy", "code", "imp"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "importlib.import_module",
}
#: What a call must say, and what it must say it is.
REQUIRED = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
#: What a call may not say, whatever it calls.
FORBIDDEN = {("allow_pickle", True), ("weights_only", False), ("shell", True)}
FORBIDDEN |= {("autoescape", False)}


def dangers(source):
    """What in a module's source may run what is read, as (line, words)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [(node.lineno, name) for name in names if name.split(".")[0] in READERS]
        if isinstance(node, ast.Call):
            found += [(node.lineno, words) for words in dangers_of(node)]
    return found


def dangers_of(call):
    called = ast.unparse(call.func)
    said = {each.arg: each.value for each in call.keywords if isinstance(each.value, ast.Constant)}
    values = {name: value.value for name, value in said.items()}
    if called in CALLS:
        yield called
    if called in REQUIRED:
        name, value = REQUIRED[called]
        if values.get(name) is not value:
            yield f"{called} without {name}={value}"
    for name, value in FORBIDDEN:
        if values.get(name) is value:
            yield f"{called} with {name}={value}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import os, yaml.loader", "yaml.loader"),
        ("def f():\n    import joblib", "joblib"),
        ("eval('1')", "eval"),
        ("exec(text)", "exec"),
        ("importlib.import_module(name)", "importlib.import_module"),
        ("np.load(path)", "np.load without allow_pickle=False"),
        ("np.load(path, allow_pickle=chosen)", "np.load without allow_pickle=False"),
        ("np.savez(path, allow_pickle=True)", "np.savez with allow_pickle=True"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("subprocess.run(line, shell=True)", "subprocess.run with shell=True"),
        ("Environment(autoescape=False)", "Environment with autoescape=False"),
    ],
)
def test_what_would_run_it_is_found(source, words):
    assert words in [found for _, found in dangers(source)]


@pytest.mark.parametrize(
    "source",
    [
        "np.load(path, allow_pickle=False)",
        "torch.load(path, weights_only=True)",
        "model.eval()",
        "re.compile('x')",
        "import json, numpy as np",
    ],
)
def test_what_is_harmless_is_not_found(source):
    assert dangers(source) == []


def test_there_are_modules_and_templates_to_look_at():
    assert len(MODULES) > 40
    assert "report.html.jinja" in [path.name for path in TEMPLATES]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_escapes_whatever_is_put_into_it(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|\bMarkup\b|autoescape\s+false", text)


def test_the_environment_of_the_templates_escapes():
    from experiments import page

    environment = page._environment()
    assert environment.autoescape is True
    assert (
        environment.from_string("{{ text }}").render(text="<b>&'\"") == "&lt;b&gt;&amp;&#39;&#34;"
    )
