"""Chat templates in the manner of several families, each small enough to read, and a tokenizer that carries one."""

from typing import Final

from transformers import PreTrainedTokenizerFast

from training.demo_model.tokenizer import build_tokenizer

CHATML: Final = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

HERMES: Final = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}Tools:{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}{% for message in messages %}{% if message.role == 'user' or (message.role == 'system' and not loop.first) \
%}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant{% if message.content %}
{{ message.content }}{% endif %}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN: Final = """\
{%- if tools %}{{- '<|im_start|>system\\nTools:' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + ('\\n' + message.content if message.content else '') }}
{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) }}
{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA3: Final = """\
{{ bos_token }}{% for message in messages %}{% if message.tool_calls %}\
{% if message.tool_calls | length != 1 %}{{ raise_exception('one tool call at a time') }}{% endif %}\
{% set function = message.tool_calls[0].function %}<|im_start|>assistant

{"name": "{{ function.name }}", "parameters": {{ function.arguments | tojson }}}<|im_end|>\
{% elif message.role == 'tool' %}<|im_start|>ipython

{{ message.content | tojson }}<|im_end|>\
{% else %}<|im_start|>{{ message.role }}

{% if loop.last and tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}
{% endfor %}{% endif %}{{ message.content | trim }}<|im_end|>{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant

{% endif %}"""

MISTRAL: Final = """\
{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}\
{% if loop.last and tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}\
[INST]{{ message.content }}[/INST]\
{% elif message.tool_calls %}[TOOL_CALLS][{% for call in message.tool_calls %}\
{% if call.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}\
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}\
{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}\
{% elif message.role == 'assistant' %}{{ message.content }}{{ eos_token }}\
{% elif message.role == 'tool' %}[TOOL_RESULTS]{"content": {{ message.content | tojson }}, \
"call_id": "{{ message.tool_call_id }}"}[/TOOL_RESULTS]\
{% else %}{{ raise_exception('only users, assistants and tools') }}{% endif %}{% endfor %}"""

USERS_ALONE: Final = """\
{% for message in messages %}{% if message.role == 'user' %}<user>{{ message.content }}\
{% elif message.role == 'assistant' %}<model>{{ message.content }}\
{% else %}{{ raise_exception('this model has no such role') }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<model>{% endif %}"""


def tokenizer_with(template: str, *special: str) -> PreTrainedTokenizerFast:
    """Give the demo's tokenizer another chat template, and more special tokens."""
    tokenizer = build_tokenizer(512)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": [*tokenizer.all_special_tokens, *special]})
    tokenizer.chat_template = template
    return tokenizer
