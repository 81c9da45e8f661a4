#!/usr/bin/env python3
"""Makes chat_templates.json and jinja_snippets.json beside this file: what jinja2 itself renders.

    python3 -m venv venv && venv/bin/pip install 'jinja2==3.1.6'
    venv/bin/python tests/golden/make_chat_templates.py DATA/chat-templates

The environment is set up as Hugging Face's apply_chat_template documents it (sandboxed, immutable,
trim_blocks, lstrip_blocks, loop controls, tojson without ASCII or HTML escaping). The templates stay in
the test data: the golden holds their file names, our conversations and the renderings.
"""

import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_support", [])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


class Raised(Exception):
    pass


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def render(source, variables):
    try:
        return {"expected": environment().from_string(source).render(**variables)}
    except Raised as failure:
        return {"raises": str(failure)}
    except Exception as failure:  # whatever Python raises is an error of ours too
        return {"error": f"{type(failure).__name__}: {failure}"}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(name, arguments, identity="a1b2c3d4e"):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a town: it's measured <now>",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "description": "Name of the town, as in \"Paris\""},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius",
                         "description": "Unit"},
                "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 7.5, "description": "Days ahead"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "Tags"},
                "place": {"type": "object", "description": "Where",
                          "properties": {"lat": {"type": "number", "description": "north"},
                                         "lon": {"type": "number", "description": "east"}},
                          "required": ["lat"]},
            },
            "required": ["town"],
        },
        "return": {"type": "string", "description": "A sentence"},
    },
}
CLOCK = {"type": "function",
         "function": {"name": "clock", "description": "The time",
                      "parameters": {"type": "object", "properties": {}}}}

CONVERSATIONS = {
    "one": [user("Hello, how are you?")],
    "system": [system("Answer in one word."), user("Which colour has the sky?")],
    "turns": [system(" You are a poet. "), user("A line on rain."), assistant("  It falls on tin.\n"),
              user("Another, na\u00efve one \U0001f327\n"), assistant("Drip & <drop>."), user("'Thanks' \"all\"")],
    "ends with assistant": [user("2+2?"), assistant("4")],
    "two users": [user("First."), user("Second.")],
    "assistant first": [assistant("I begin."), user("Odd.")],
    "system late": [user("Hi"), system("Be kind."), user("Again")],
    "thinking": [user("Sum 1 and 2."), assistant("<think>\nOne and two.\n</think>\n\n3"), user("And 4?")],
    "reasoning field": [user("Sum?"), assistant("3", reasoning_content="count"), user("Sure?")],
    "parts": [user([{"type": "text", "text": "Part one."}, {"type": "text", "text": "Part two."}])],
    "tool call": [user("Weather in Oslo?"),
                  assistant(None, tool_calls=[call("get_weather", {"town": "Oslo", "days": 2, "deep": {"a": [1, 2.5, None, True]}})]),
                  {"role": "tool", "name": "get_weather", "tool_call_id": "a1b2c3d4e", "content": "{\"sky\": \"grey\"}"},
                  assistant("Grey."), user("Thanks")],
    "tool call as string": [user("Weather in Oslo?"),
                            assistant("", tool_calls=[call("get_weather", "{\"town\": \"Oslo\"}"),
                                                      call("clock", "{}", "z9y8x7w6v")]),
                            {"role": "tool", "name": "get_weather", "tool_call_id": "a1b2c3d4e", "content": "grey"},
                            {"role": "tool", "name": "clock", "tool_call_id": "z9y8x7w6v", "content": "noon"}],
    "tool call without content": [user("Weather?"), {"role": "assistant", "tool_calls": [call("get_weather", {"town": "Rome"})]},
                                  {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "sun"}],
    "empty": [],
    "unknown role": [{"role": "wizard", "content": "Hocus"}],
    "null content": [user(None)],
}

VARIANTS = [
    {},
    {"add_generation_prompt": False},
    {"tools": [WEATHER, CLOCK]},
    {"tools": [WEATHER], "add_generation_prompt": False},
    {"enable_thinking": False, "documents": [{"title": "T", "text": "Body of it"}], "enable_citations": True},
    {"tools": [WEATHER], "documents": [{"title": "T", "text": "Body"}], "tools_in_user_message": False,
     "builtin_tools": ["code_interpreter", "brave_search"], "functions": "[]", "datetime": "today"},
]


def make_templates(folder):
    cases = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for name, messages in CONVERSATIONS.items():
            groups = []  # variants that render alike are one case
            for number, variant in enumerate(VARIANTS):
                if number >= 3 and name not in ("one", "turns", "tool call"):
                    continue
                variables = {"messages": messages, "add_generation_prompt": True, "bos_token": "<s>",
                             "eos_token": "</s>", "tools": None, "documents": None,
                             "date_string": "26 Jul 2024", **variant}
                result = render(source, variables)
                same = next((group for group in groups if group["result"] == result), None)
                if same:
                    same["variants"].append(number)
                else:
                    groups.append({"variants": [number], "result": result})
            cases += [{"template": path.name, "conversation": name, "variants": group["variants"],
                       **group["result"]} for group in groups]
    return {
        "note": "Made by make_chat_templates.py with jinja2 " + jinja2.__version__ + ".",
        "common": {"bos_token": "<s>", "eos_token": "</s>", "date_string": "26 Jul 2024"},
        "conversations": CONVERSATIONS,
        "variants": VARIANTS,
        "cases": cases,
    }


def make_snippets():
    variables = json.loads((HERE / "jinja_snippets_input.json").read_text(encoding="utf-8"))
    return {
        "note": "Made by make_chat_templates.py with jinja2 " + jinja2.__version__ +
                " from jinja_snippets_input.json.",
        "variables": variables["variables"],
        "cases": [{"source": source, **render(source, variables["variables"])}
                  for source in variables["sources"]],
    }


def write(name, data):
    text = json.dumps(data, ensure_ascii=True, indent=1)
    (HERE / name).write_text(text + "\n", encoding="utf-8")
    cases = data["cases"]
    print(name, len(cases), "cases,", sum("expected" in case for case in cases), "rendered,",
          sum("raises" in case for case in cases), "raised,", sum("error" in case for case in cases), "errors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write("chat_templates.json", make_templates(pathlib.Path(sys.argv[1])))
    write("jinja_snippets.json", make_snippets())
