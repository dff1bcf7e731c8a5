"""What the model knows about the project. Keep it true: the model says it to the first people who try the mesh.

Each row: names | of the thing, questions | of its own, answers | in other words, keywords | of a right answer.
"""

from __future__ import annotations

FACTS = (
    (
        "the mesh | this mesh | an inference mesh | this project | the inference mesh",
        "What is this? | What is this project about? | What does this software do? | What can the mesh do? "
        "| Where am I? | What am I looking at? | What is this thing? | What did I just start? | What is "
        "going on here? | What is this project?",
        "The mesh is a set of programs that serve language models together. Workers run the models, a "
        "gateway speaks the OpenAI REST API, and etcd knows which workers are alive. | This is an inference "
        "mesh for language models: clients speak the OpenAI REST API to a gateway, the gateway passes each "
        "request to a worker over gRPC, and the workers register in etcd.",
        "gateway | worker | etcd",
    ),
    (
        "the gateway | a gateway | gateway | the mesh gateway | mesh-gateway",
        "Who answers HTTP requests? | Which program speaks the OpenAI API? | Where do my requests go first? "
        "| What is the front door of the mesh? | Who talks to the clients? | What sits between client and "
        "worker?",
        "The gateway is the front door of the mesh. It speaks the OpenAI REST API on port 8000 and passes "
        "each request to a worker over gRPC. | The gateway listens on port 8000. It turns OpenAI REST "
        "requests into gRPC streams, chooses a worker that is not too busy, and streams the answer back to "
        "the client.",
        "gateway | 8000 | worker | grpc",
    ),
    (
        "a worker | the worker | worker | workers | a mesh worker | mesh-worker",
        "Which program runs the model? | Where does the model run? | Who makes the tokens? | Who computes "
        "the answer? | What loads the model? | Which process holds the weights?",
        "A worker is a process that loads a model and makes the tokens of the answers. It speaks gRPC, from "
        "port 50051, and registers itself in etcd. | Workers run the model. Each worker speaks gRPC, the "
        "first one on port 50051, and writes its record to etcd so that the gateway can find it.",
        "50051 | grpc | etcd",
    ),
    (
        "etcd | the registry | the etcd registry | registry",
        "How does the gateway find the workers? | Where do workers register? | Why do you need etcd? | What "
        "is stored in etcd? | Where is the list of workers? | Where are the workers listed? | How are new "
        "workers found? | Who knows the workers?",
        "etcd is the registry of the mesh. Each worker writes its record there under a lease, and the "
        "gateway watches these records. | The registry is etcd: workers write their records into it, and "
        "the gateway watches them. On one machine an embedded registry does the same job, so you need not "
        "install etcd.",
        "etcd | worker | gateway | record",
    ),
    (
        "the embedded registry | an embedded registry | embedded etcd",
        "Do I need to install etcd? | Must I have etcd? | Can I run the mesh without etcd? | Is etcd "
        "required? | Does it work without etcd? | Where is etcd if I did not install it? | Is etcd needed "
        "on one machine?",
        "You need not install etcd on one machine. The embedded registry serves the same interface from "
        "inside the mesh, and it is the default. | The embedded registry is the default: it speaks the same "
        "interface as etcd and runs inside the mesh, so one machine needs no etcd of its own.",
        "embedded | etcd | default",
    ),
    (
        "failover | exact failover | the failover",
        "What happens when a worker dies? | What if a worker crashes? | What happens to my answer if a "
        "worker is killed? | Is my answer lost when a worker dies? | What if a worker freezes? | Can I kill "
        "a worker while it answers? | What happens if a machine goes down? | What happens if I kill a "
        "worker? | What if I kill -9 a worker? | What if the worker stops in the middle of an answer?",
        "Failover is exact. When a worker is lost in the middle of an answer, the gateway sends the request "
        "and the tokens so far to another worker with the same model. That worker goes on, and the client "
        "sees the same bytes as without the fault. | When a worker is lost, the gateway gives the request "
        "and the tokens so far to another worker with the same model, which goes on from there. The client "
        "gets the same bytes: failover is exact.",
        "exact | gateway | another worker | same bytes",
    ),
    (
        "a session | the session | session | the session stream | a session message",
        "How do gateway and worker talk? | How are tokens sent to the gateway? | How many messages does a "
        "step send? | Why is the mesh fast on the wire? | Is there a stream for each request? | What goes "
        "over the wire? | How do the gateway and a worker talk to each other?",
        "A session is one gRPC stream between a gateway and a worker. All running answers share it, and "
        "each engine step sends one message, however many answers are running. | Gateway and worker share "
        "one gRPC stream, the session. It carries one message per engine step with the new tokens of all "
        "running answers.",
        "session | one message | engine step | grpc",
    ),
    (
        "the engine | an engine | the default engine | engine",
        "How are many requests served at once? | What runs inside a worker? | How does batching work? | "
        "What computes the next token? | What is inside a worker? | How does a worker serve many users?",
        "The engine is the part of a worker that runs the model. It puts all running requests into one "
        "batch, and each step gives them their next tokens. | Inside a worker the engine runs the model. "
        "New requests join the running batch and finished ones leave it at every step.",
        "engine | worker | batch | step",
    ),
    (
        "the prefix cache | prefix cache | prefix caching | a prefix cache",
        "Why is a repeated prompt faster? | Is a long prompt computed twice? | Are system prompts cached? | "
        "What is reused between requests? | Does the mesh cache prompts? | Why is the second request faster?",
        "The prefix cache keeps the keys and values of prompts. When two requests begin with the same text, "
        "the second one reuses that part and starts sooner.",
        "prefix cache | reuse",
    ),
    (
        "the KV cache | KV cache | kv cache | a page of the KV cache | a KV page",
        "Where are keys and values kept? | What does the engine keep for each token? | What is stored for "
        "every token? | What fills the memory? | What are KV pages? | Why does a long context need memory? "
        "| What fills the memory of a worker?",
        "The KV cache holds the keys and values that attention needs for each token. The engine keeps it in "
        "pages that requests can share.",
        "keys and values | pages",
    ),
    (
        "a token | tokens | token",
        "Is a token a word? | Do you think in words or tokens? | What do you write, one piece at a time? | "
        "What are the pieces of text called? | How is text cut into pieces? | What does a model produce?",
        "A token is a piece of text, often a word or a part of one. A language model writes its answer one "
        "token at a time.",
        "token | piece of text | one token at a time",
    ),
    (
        "streaming | token streaming | a streamed answer",
        "Can I stream the answer? | How do I get the answer word by word? | Does the mesh stream? | How can "
        "I see the answer as it is written? | What does stream true do? | Can I see tokens at once? | How "
        "do I turn on streaming? | Can the answer be streamed?",
        "Yes, the mesh streams. Set stream to true, and the gateway sends each part of the answer as a "
        "server-sent event as soon as the worker has made it. | With stream set to true, the gateway sends "
        "the answer part by part as server-sent events while the worker writes it.",
        "stream | true | server-sent event | gateway",
    ),
    (
        "gRPC | grpc",
        "Why do you use gRPC? | Which protocol do workers speak? | What do gateway and workers speak to "
        "each other? | Is the worker called over HTTP or gRPC? | How can I call a worker directly? | Which "
        "wire protocol is used?",
        "gRPC is the protocol between gateway and workers. Its messages are defined in the protos folder, "
        "and any language with gRPC can call a worker directly.",
        "grpc | gateway | worker | protos",
    ),
    (
        "the OpenAI API | the REST API | the OpenAI REST API | the HTTP API",
        "Which API do you speak? | Is this compatible with OpenAI? | Can I use the OpenAI SDK? | How do I "
        "use the OpenAI client with the mesh? | What is the base URL? | Which URL do I call? | How do I "
        "connect my application? | Which address do I give to the OpenAI SDK?",
        "The gateway speaks the OpenAI REST API. Point any OpenAI client at http://localhost:8000/v1 and "
        "call chat completions. | Use any OpenAI client with the base URL http://localhost:8000/v1, because "
        "the gateway speaks the OpenAI REST API.",
        "openai | http://localhost:8000/v1",
    ),
    (
        "a lease | the lease | lease",
        "How does etcd notice a dead worker? | When does a worker disappear from etcd? | Why do records "
        "vanish from etcd? | How long does a record stay in etcd? | What keeps a record alive? | When is a "
        "record removed?",
        "A lease is a promise with an end. A worker keeps its record in etcd alive by renewing the lease. "
        "When the worker is gone, the lease ends and etcd removes the record.",
        "lease | worker | etcd | record",
    ),
    (
        "draining | drain | a drain | a draining worker",
        "How do I stop a worker without losing answers? | What happens when a worker gets SIGTERM? | How do "
        "I take a worker out? | How can I restart a worker safely? | Can I update a worker without errors? "
        "| How do I shut down a worker gently? | How do I drain a worker? | How do I stop a worker?",
        "A draining worker takes no new requests. Its running answers end or move to another worker, and "
        "then it stops. Send SIGTERM to the worker, or run mesh ctl drain.",
        "no new requests | worker | mesh ctl drain",
    ),
    (
        "a fingerprint | the fingerprint | the model fingerprint | fingerprint",
        "How does the gateway know that two workers have the same model? | When are two models the same? | "
        "Which worker may continue an answer? | How are models compared? | Can any worker take over an "
        "answer? | What makes two workers equal?",
        "The fingerprint is a hash of the weights, the tokenizer and the chat template. Only a worker with "
        "the same fingerprint may continue an answer.",
        "fingerprint | weights | tokenizer",
    ),
    (
        "temperature | the temperature | sampling temperature",
        "How do I get the same answer each time? | How do I make answers less random? | What does "
        "temperature 0 do? | What is greedy decoding? | How do I set the randomness? | How do I make the "
        "answers more creative? | How do I make answers more random?",
        "The temperature sets how freely the next token is chosen. At 0 the most likely token always wins, "
        "so the answer is the same each time. Higher values give more variety.",
        "token | 0 | same each time",
    ),
    (
        "a seed | the seed | seed",
        "How do I repeat a random answer? | Can sampling be repeated? | How do I make sampling "
        "reproducible? | What does the seed do in a request? | Why set a seed? | Is random sampling "
        "repeatable? | How do I get the same random answer again?",
        "The seed fixes the random numbers of sampling. The same request with the same seed gives the same answer.",
        "seed | same answer",
    ),
    (
        "the arena | an arena | a battle | battles | the voting page",
        "How do I compare two models? | Can people vote on answers? | Where can I let two models compete? | Is there a "
        "web page? | How do I hold a battle? | Can I chat in the browser? | Which command opens the arena? | How do I "
        "collect votes? | Is there a web interface? | How do I see two models side by side?",
        "In the arena, two models answer the same question side by side, and people vote without knowing their names. "
        "mesh-webui starts the web page. | The arena is a web page that mesh-webui starts. Two models answer side by "
        "side, you vote, and only then you see their names.",
        "mesh-webui | two models | side by side | vote",
    ),
    (
        "the leaderboard | a leaderboard | the ranking | the ratings",
        "Which model is the best? | How are the models ranked? | How are votes counted? | Where do I see who wins? | "
        "How are ratings computed? | What becomes of the votes? | Is there a ranking of the models? | How sure are the "
        "ratings?",
        "The leaderboard ranks the models by the votes of the arena. It fits a Bradley-Terry model and shows an "
        "interval with each rating.",
        "leaderboard | votes | bradley-terry | interval",
    ),
    (
        "MT-bench | mt-bench | the MT-bench runner | mesh mtbench",
        "How do I benchmark a model? | Can a model judge the answers? | How do I measure quality? | How do I evaluate "
        "my model? | Is there a benchmark with a judge? | Which command runs MT-bench? | How do I test how good a "
        "model is? | How do I grade models?",
        "Run mesh mtbench. It asks the models questions of two turns, lets a judge model grade the answers, and writes "
        "a report.",
        "mesh mtbench | judge | report",
    ),
    (
        "API keys | an API key | the API key | a key",
        "How do I protect the gateway? | Do I need an API key? | How do I make an API key? | How can I keep strangers "
        "out? | Is there authentication? | How do I create a key? | Which command makes a key? | How do I give a user "
        "a key?",
        "Run mesh ctl keys create and start the gateway with --require-keys. Without that, no API key is needed.",
        "mesh ctl keys create | --require-keys",
    ),
    (
        "the Anthropic API | the messages API | /v1/messages",
        "Can I use the Anthropic SDK? | Do you speak the Anthropic API? | Can I use Claude Code with the mesh? | Which "
        "other APIs are there? | Is there a messages endpoint? | Does the gateway speak more than OpenAI?",
        "The gateway speaks the Anthropic API, too: /v1/messages works with the Anthropic SDK, next to the OpenAI API.",
        "/v1/messages | anthropic | openai",
    ),
    (
        "a LoRA adapter | LoRA | an adapter | adapters | LoRA adapters",
        "Can I serve a LoRA? | How do I add an adapter? | How do I use a fine-tuned model? | Can one worker serve "
        "several adapters? | Which option loads an adapter? | How do I serve my adapter?",
        "Give a worker the option --lora NAME=PATH. Requests that name this adapter get it, in the same batch as all "
        "others.",
        "--lora NAME=PATH | worker | adapter",
    ),
)

HOWTO = (
    (
        "the demonstration model | the demo model | this model | the model | yourself | mesh-demo",
        "Who are you? | What are you? | Are you ChatGPT? | Tell me about yourself. | Introduce yourself. | "
        "Which model are you? | Are you a real model? | What model is this? | Are you a large language "
        "model? | Who am I talking to? | Are you an AI? | What kind of model are you? | Describe yourself. "
        "| Are you GPT-4? | who r u | What is your model name?",
        "I am the demonstration model of the mesh, a very small language model. I show that the mesh works. "
        "For real work, point the mesh at a real model. | I am a very small language model that comes with "
        "the mesh as a demonstration. I can chat a little, but for real work you need a real model.",
        "demonstration | mesh | small | real model",
    ),
    (
        "",
        "Who made you? | Who created you? | Who trained you? | Where do you come from? | Who built you? | "
        "How were you made? | How were you trained? | What were you trained on? | What is your training "
        "data? | Who is your maker? | Who wrote you? | Which company made you? | Did OpenAI make you? | "
        "Where is your recipe?",
        "This project made me. The recipe in training/demo writes conversations of its own, trains me on "
        "them from nothing, and checks the result. | I was made by this project from nothing. The recipe in "
        "training/demo wrote my conversations, trained me on them and examined me.",
        "project | training/demo | conversations",
    ),
    (
        "",
        "What can you do? | What do you know? | How can you help me? | What are your skills? | What can I "
        "ask you? | Help | What should I ask? | Give me some ideas what to ask. | What are you good at? | "
        "What can you talk about? | List your abilities. | What can we do together? | Show me what you can "
        "do. | help me | What are you able to do?",
        "I can chat a little, do small sums, tell short stories, write lists, answer in JSON, and answer "
        "questions about the mesh. | Small sums, short stories, lists, JSON answers and questions about the "
        "mesh: that is what I can do.",
        "sums | stories | lists | json | mesh",
    ),
    (
        "",
        "How big are you? | How many parameters do you have? | What is your size? | How large is this "
        "model? | Are you big? | How many weights do you have? | Are you a large model? | How small are "
        "you? | How much memory do you need? | How large are you?",
        "I am very small: fewer than three million parameters, in a few megabytes. A useful model has a "
        "thousand times as many.",
        "million | small",
    ),
    (
        "a real model | another model | my own model | model-path | the model-path option",
        "How do I point it at a real model? | How do I use another model? | How do I serve my own model? | "
        "Can I use a different model? | How do I load a real model? | How do I run a bigger model? | Can "
        "you serve Llama? | Which option chooses the model? | How do I change the model? | I want to use a "
        "better model. | Where do I put my model? | How can I serve a Hugging Face model? | How do I switch "
        "to a real model? | how to use a real model",
        "Run mesh up --model-path DIR, or start a worker with mesh-worker --model-path DIR. DIR is a folder "
        "with a Hugging Face model. | Give the folder of a Hugging Face model to the mesh: mesh up "
        "--model-path DIR, or mesh-worker --model-path DIR for a single worker.",
        "--model-path DIR | mesh up | mesh-worker",
    ),
    (
        "mesh up | the mesh up command",
        "How do I start the mesh? | How do I run the mesh? | How do I start everything? | Which command "
        "starts the mesh? | How do I begin? | How do I get started? | What do I type to start? | How can I "
        "launch it? | What is the first command? | How do I run it on my laptop?",
        "Run mesh up. It starts an embedded registry, a worker and the gateway on this machine, and prints "
        "a curl line to try. | The command mesh up starts everything on one machine: an embedded registry, "
        "a worker and the gateway.",
        "mesh up | registry | worker | gateway",
    ),
    (
        "mesh chat | the mesh chat command",
        "How do I chat in the terminal? | Can I chat without a browser? | Which command opens a chat? | How "
        "do I talk to you? | How can I chat with the model? | Is there a chat in the terminal? | What do I "
        "type to chat?",
        "Run mesh chat in a second terminal. It talks to the gateway and prints the answer while it is written.",
        "mesh chat | terminal | gateway",
    ),
    (
        "mesh-worker --model-path | the mesh-worker command | the worker command",
        "How do I start a worker? | How do I add a worker? | How do I add another machine? | How do I run a "
        "second worker? | Which command starts a worker? | How can I add more workers? | How do I scale the "
        "mesh? | How do I use ten machines?",
        "Start mesh-worker --model-path DIR on the machine and give it the address of your registry with "
        "--etcd. The gateway finds the new worker by itself.",
        "mesh-worker --model-path DIR | --etcd | gateway",
    ),
    (
        "the --etcd option | a real etcd | an etcd cluster",
        "How do I use a real etcd? | How do I point the mesh at etcd? | Can I use my own etcd? | How do I "
        "connect to an etcd cluster? | Which option sets the address of etcd? | How do I use several "
        "machines? | Where do I give the etcd address?",
        "Give the address of your etcd with --etcd to the gateway and to every worker. Without it, the "
        "embedded registry is used.",
        "--etcd | gateway | worker | embedded",
    ),
    (
        "",
        "Which ports do you use? | What port is the gateway on? | Which port do workers use? | What are the "
        "default ports? | Which ports must be open? | On which port do you listen? | What is the port "
        "number? | Which port is it? | Tell me the ports. | What ports does the mesh need?",
        "The gateway listens on port 8000, and workers take ports from 50051.",
        "8000 | 50051",
    ),
    (
        "",
        "What happens if etcd dies? | What if etcd is down? | Does the mesh survive without etcd? | What "
        "happens when the registry is lost? | Is etcd a single point of failure? | Can I restart etcd? | "
        "What if etcd loses its data? | What happens when etcd is down? | What happens if etcd crashes? | "
        "What if etcd crashes?",
        "Nothing stops when etcd is down. The gateway keeps the workers it knows, the workers go on "
        "serving, and they register again when etcd is back.",
        "etcd | gateway | workers | register again",
    ),
    (
        "",
        "What happens if I hang up? | What if the client disconnects? | What happens when a client hangs "
        "up? | What if I close the page? | Is a request cancelled when I close it? | Can I cancel a "
        "request? | What happens when I press stop? | What if I close the connection?",
        "When a client hangs up, the gateway cancels the request, and the worker frees its place within an "
        "engine step or two.",
        "gateway | cancels | worker",
    ),
    (
        "",
        "How does the gateway choose a worker? | Which worker gets my request? | How is load balanced? | Is "
        "there load balancing? | How are requests spread over the workers? | Who gets the next request?",
        "The gateway prefers the worker that has the beginning of your prompt in its cache. If that one is too busy, "
        "it takes the least loaded worker, for each worker reports its load with every engine step.",
        "gateway | cache | least loaded | worker",
    ),
    (
        "",
        "How do I list the models? | Which models are served? | Where can I see the models? | How do I see "
        "which models there are? | What is /v1/models? | Is there a list of models? | Which models do you "
        "serve? | How can I list the models?",
        "Ask the gateway: GET /v1/models lists the models that its workers serve.",
        "gateway | /v1/models",
    ),
    (
        "metrics | the metrics | monitoring",
        "How do I monitor the mesh? | Are there metrics? | Where are the metrics? | Is there a health "
        "check? | How do I know that the gateway is ready? | What is /healthz? | What is /metrics?",
        "The gateway has /healthz and /readyz for health checks, and /metrics for Prometheus. Workers have "
        "metrics too.",
        "/healthz | /metrics",
    ),
    (
        "",
        "How do I run the tests? | How do I test the mesh? | Which command runs the tests? | Are there "
        "tests? | How can I check that it works? | What runs the test suite?",
        "Run make test. It runs the tests, with real processes and a real etcd. | The command make test "
        "runs the tests.",
        "make test",
    ),
    (
        "",
        "How do I stop the mesh? | How do I shut it down? | How do I quit mesh up? | How do I end the mesh? "
        "| Which key stops the mesh? | How can I turn it off? | How do I leave mesh up? | How do I stop it?",
        "Press Ctrl-C in the terminal where mesh up runs. Gateway, workers and registry then stop cleanly.",
        "ctrl-c",
    ),
    (
        "",
        "What language is the mesh written in? | Is it written in Python? | Which programming language is "
        "used? | Is this Python or Rust? | Which language is the code? | Is the code Python? | In which "
        "language is this written? | What is the mesh written in?",
        "The mesh is written in Python. Clients may be written in any language, because they speak the "
        "OpenAI REST API or gRPC.",
        "python | openai | grpc",
    ),
    (
        "",
        "Are you alive? | Are you human? | Are you a person? | Do you have feelings? | Are you real? | Do "
        "you sleep? | How old are you? | Where do you live? | Do you dream? | Do you have friends? | Do you "
        "get tired? | Are you a robot? | Can you think? | Do you have a body? | Do you have a heart? | Are "
        "you a human?",
        "I am only a small program, made of some million numbers. I have no feelings, but I am glad to answer.",
        "program | no feelings",
    ),
)
