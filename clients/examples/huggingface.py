"""A chat by plain transformers, with the mesh's chat templates: huggingface.py MODEL MESSAGE [--chat-template NAME]

What the mesh does for one request, in a page: the template of the model, of its family or of your choice, the prompt,
and the answer as it comes. MODEL is a folder or a name on the hub.
"""

import argparse
import threading
from pathlib import Path
from typing import Any

import torch
import transformers

from mesh.templates.choice import choose_template, find_stops

hub: Any = transformers  # whose functions are typed in part only


def ends(model: Any, tokenizer: Any, template: Any) -> dict[str, Any]:
    """What ends an answer: the model's own ends of turn, and those that the template names."""
    own: Any = model.generation_config.eos_token_id or tokenizer.eos_token_id
    tokens: list[int] = [own] if isinstance(own, int) else list(own)
    if template is None:
        return {"eos_token_id": tokens}
    stops = find_stops(template, tokenizer)
    strings = {"stop_strings": list(stops.strings), "tokenizer": tokenizer} if stops.strings else {}
    return {"eos_token_id": [*tokens, *stops.token_ids], **strings}


def chat(given: argparse.Namespace) -> None:
    """Print the answer to a message as it comes."""
    tokenizer = hub.AutoTokenizer.from_pretrained(given.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = hub.AutoModelForCausalLM.from_pretrained(given.model, dtype="auto").to(device)
    chosen = choose_template(given.chat_template, tokenizer, [Path(given.model).name], model.config.model_type)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": given.message}],
        chat_template=chosen.template.text if chosen.template is not None else None,
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(device)
    streamer = hub.TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options: dict[str, Any] = {
        **prompt,
        **ends(model, tokenizer, chosen.template),
        "streamer": streamer,
        "max_new_tokens": given.max_tokens,
        "do_sample": given.temperature > 0,
    }
    if given.temperature > 0:
        options["temperature"] = given.temperature
    thread = threading.Thread(target=model.generate, kwargs=options)
    thread.start()
    for piece in streamer:
        print(piece, end="", flush=True)
    print()
    thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("message")
    parser.add_argument("--chat-template", help="a built-in one (`mesh templates` lists them), or a file")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.0)
    chat(parser.parse_args())
