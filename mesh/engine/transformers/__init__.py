"""The default engine: any model of transformers, in batches.

`engine` is the event loop's side, `thread` the thread that owns torch, `core` one step after the other, `build` what
is made at the start. The rooms, each of which knows only those before it: `attention`, `vision`, `layers`, `loading`,
`lora`, `scheduling`, `runners`, `embedding`.
"""
