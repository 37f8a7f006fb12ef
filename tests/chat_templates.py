"""Chat templates as models of known families have them, written anew and short: what they print is what counts."""

_TURNS = "{% for m in messages %}"
_PROMPT = "{% if add_generation_prompt %}"

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + _TURNS
    + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    + _PROMPT
    + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MERGED = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set ms = messages[1:] %}"
    "{% else %}{% set s = none %}{% set ms = messages %}{% endif %}"
)

TEMPLATES = {
    "chatml": CHATML,
    "qwen3": CHATML.replace("You are a helpful assistant.", 'You are Q.\nBe "good".'),
    "llama2": _MERGED
    + "{% for m in ms %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    + "{% if s and loop.first %}{{ '<<SYS>>\n' + s + '\n<</SYS>>\n\n' }}{% endif %}{{ m.content.strip() + ' [/INST]' }}"
    + "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama3": "{{ bos_token }}"
    + _TURNS
    + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    + _PROMPT
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "llama3.1": "{{ bos_token }}"
    + _MERGED
    + "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n' + (s or '') + '<|eot_id|>' }}"
    + "{% for m in ms %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}"
    + "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral v1": "{{ bos_token }}"
    + _TURNS
    + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}"
    + "{% endif %}{% endfor %}",
    "mistral v3": "{{ bos_token }}"
    + _MERGED
    + "{% for m in ms %}{% if m.role == 'user' %}[INST] {% if s and loop.last %}{{ s + '\n\n' }}{% endif %}"
    + "{{ m.content }}[/INST]{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
    "mistral tekken": "{{ bos_token }}"
    + _MERGED
    + "{% if s %}[SYSTEM_PROMPT]{{ s }}[/SYSTEM_PROMPT]{% endif %}"
    + "{% for m in ms %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content + eos_token }}"
    + "{% endif %}{% endfor %}",
    "gemma": "{{ bos_token }}"
    + _MERGED
    + "{% for m in ms %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    + "{% if s and loop.first %}{{ s + '\n\n' }}{% endif %}{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    + _PROMPT
    + "{{ '<start_of_turn>model\n' }}{% endif %}",
    "phi3": _TURNS
    + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi4": _TURNS
    + "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "deepseek": "{{ bos_token }}"
    + _TURNS
    + "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<\uff5cUser\uff5c>' + m.content }}"
    + "{% else %}{{ '<\uff5cAssistant\uff5c>' + m.content + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}"
    + "{% endif %}{% endfor %}"
    + _PROMPT
    + "{{ '<\uff5cAssistant\uff5c>' }}{% endif %}",
    "command-r": "{{ bos_token }}"
    + _TURNS
    + "{{ '<|START_OF_TURN_TOKEN|><|' + {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role]"
    + " + '_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    + "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "zephyr": _TURNS
    + "{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    + _PROMPT
    + "{{ '<|assistant|>\n' }}{% endif %}",
    "alpaca": _MERGED
    + "{{ (s or 'Below is an instruction.') + '\n\n' }}{% for m in ms %}{% if m.role == 'user' %}"
    + "{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}{{ '### Response:\n' + m.content + eos_token }}"
    + "{{ '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
    "vicuna": "{{ bos_token }}"
    + _MERGED
    + "{{ (s or 'A chat between a user and an assistant.') + ' ' }}{% for m in ms %}{% if m.role == 'user' %}"
    + "{{ 'USER: ' + m.content }}{% else %}{{ ' ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    + "{% if add_generation_prompt %} ASSISTANT:{% endif %}",
    "granite": _TURNS
    + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}"
    + "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
}
