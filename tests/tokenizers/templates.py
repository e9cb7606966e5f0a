"""Chat templates in the manner of model families, with the features of jinja that those use."""

# Llama 3: variables that may be missing, messages set anew, a date.
LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "1 Jan 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools: " }}{% for tool in tools %}{{- tool | tojson(indent=4) }}{{- "\\n" }}{% endfor %}
{%- endif %}
{{- "Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role in ('user', 'assistant') and not 'tool_calls' in message %}
        {{- '<|start_header_id|>' ~ message.role + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- raise_exception("No role " + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Qwen 2.5: a system message of its own, tools as JSON, a namespace that looks back.
QWEN25 = """{%- set ns = namespace(last_user=-1, has_tools=false) %}
{%- if tools %}
    {%- set ns.has_tools = true %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(sort_keys=true) ~ '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages[::-1] %}
    {%- if ns.last_user < 0 and message.role == "user" %}
        {%- set ns.last_user = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not ns.has_tools)
           or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if ns.last_user == 0 and hint is defined %}{{ hint }}{% endif %}
{%- endif %}
"""

# Gemma: one line, another name for the assistant, refuses a system message and two of one role.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")

# Mistral: no roles, the system message within the first of the user, spaces around all.
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("user and assistant must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message["role"] == "user" %}
        {%- if message == user_messages[0] and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""

# SmolLM3: macros, defaults, methods of strings, a block that marks what the assistant wrote.
SMOLLM3 = """{#- Thinking is on by default. -#}
{%- macro header(role, thinks=true) -%}
{{ "<|im_start|>" ~ role }}
{% if role == "assistant" and not thinks %}<think>

</think>
{% endif %}
{%- endmacro -%}
{%- set thinks = enable_thinking | default(true) -%}
{%- set content = namespace(system="") -%}
{%- if messages[0].role == "system" -%}
  {%- set content.system = messages[0].content -%}
  {%- if "/no_think" in content.system -%}
    {%- set thinks = false -%}
    {%- set content.system = content.system.replace("/no_think", "").rstrip() -%}
  {%- endif -%}
{%- endif -%}
{{ header("system") }}Year: {{ strftime_now("%Y") }}
Mode: {{ "/think" if thinks else "/no_think" }}

{{ content.system ~ "<|im_end|>" }}
{% for message in messages %}
    {%- if message.role == "system" and loop.first %}{% continue %}{% endif %}
    {%- if message.role == "assistant" %}
{{- header("assistant", thinks) }}
        {%- generation %}
            {%- set written = message.content.lstrip("\\n") %}
            {{- written ~ "<|im_end|>" }}
        {%- endgeneration %}
        {{- "\\n" }}
    {%- elif message.content is string %}
{{- header(message.role) ~ message.content ~ "<|im_end|>\\n" }}
    {%- endif %}
    {%- if written is defined %}{{ raise_exception("a name left its block") }}{% endif %}
{%- endfor -%}
{%- if add_generation_prompt %}{{ header("assistant", thinks) }}{% endif -%}
"""

# Qwen3: reasoning stays in the last turn only, where there always is some, if only an empty one.
QWEN3 = """{%- set ns = namespace(last_user=messages|length - 1, is_found=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.is_found and message.role == "user" %}
        {%- set ns.is_found = true %}
        {%- set ns.last_user = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role != "assistant" %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set content = message.content %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last_user and (loop.last or thought) %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

# DeepSeek-R1 and its distillations: no reasoning in any turn, and an open tag in the prompt.
R1 = """{{- bos_token }}{% for message in messages %}
    {%- if message.role == 'user' %}{{- '<|User|>' + message.content }}{% endif %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content.split('</think>')[-1] %}
        {{- '<|Assistant|>' + content + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|>' + thinking | default('<think>\\n') }}{% endif %}
"""

# QwQ: ChatML with an open tag in the prompt, and no reasoning in any turn.
QWQ = """{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}
"""

# Name -> template, begin token, the token that ends a turn.
FAMILIES = {
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "qwen25": (QWEN25, None, "<|im_end|>"),
    "gemma": (GEMMA, "<bos>", "<end_of_turn>"),
    "mistral": (MISTRAL, "<s>", "</s>"),
    "smollm3": (SMOLLM3, None, "<|im_end|>"),
}
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<|im_start|>", "<|im_end|>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>",
           "<|endoftext|>", "<|end|>", "<|User|>", "<|Assistant|>"]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, é🙂!"},
        {"role": "user", "content": " 7 + 8? "}, {"role": "assistant", "content": "15"}]
SYSTEM = {"role": "system", "content": "Be brief. /no_think"}
