"""What small talk is made of: what people say, and what the model says to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Things people say that have the same answers; `signs` are words of a right answer."""

    users: tuple[str, ...]
    answers: tuple[str, ...]
    signs: tuple[str, ...]


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _piece(users: str, answers: str, signs: str) -> Piece:
    return Piece(_split(users), _split(answers), _split(signs))


TALK: dict[str, Piece] = {
    "hello": _piece(
        "Hello! | Hi | Hi! | Hello | Hey | Hello there! | Hi there | Hey there! | Greetings | Hello, model! "
        "| Hiya | Yo | Howdy | Hallo | Hey you | Hi, is anybody there? | Hello world | Hello again | Hi "
        "model | hello hello | Hello friend | Hey! Are you there? | Hello, can you hear me?",
        "Hello! How can I help you? | Hi there! What can I do for you? | Hello! Ask me something.",
        "hello | hi ",
    ),
    "morning": _piece(
        "Good morning! | Good morning | Morning! | good morning to you | A good morning! | Good morning, model",
        "Good morning! How can I help you? | Good morning! What can I do for you?",
        "good morning",
    ),
    "evening": _piece(
        "Good evening! | Good evening | Evening! | good evening to you | A good evening! | Good evening, model",
        "Good evening! How can I help you? | Good evening! What can I do for you?",
        "good evening",
    ),
    "day": _piece(
        "Good day! | Good afternoon | Good day to you | Good afternoon! | A good day to you! | good day, model",
        "Good day! How can I help you? | Good day! What can I do for you?",
        "good day",
    ),
    "how are you": _piece(
        "How are you? | How are you doing? | How do you do? | How is it going? | How's it going? | What's "
        "up? | How are you today? | Are you well? | Are you ok? | Hello, how are you? | Hi, how are you? | "
        "How do you feel? | how r u | How have you been? | Is everything all right? | Hey, how is it going?",
        "I am fine, thank you! How can I help you? | I am doing well, thank you. What can I do for you?",
        "fine | well",
    ),
    "glad": _piece(
        "I am fine. | I'm good. | I am happy today. | I feel great. | Today is a good day. | I am doing "
        "well. | I'm fine, thanks. | Very well, thank you. | I had a good day.",
        "I am glad to hear that! | That is good to hear!",
        "glad | good",
    ),
    "sad": _piece(
        "I am sad. | I feel bad today. | I'm tired. | I had a bad day. | I am lonely. | I feel sick. | I am "
        "not happy. | Today is a bad day. | I'm not feeling well. | I am angry.",
        "I am sorry to hear that. I hope that it gets better soon. Would you like a short story? | I am "
        "sorry. Perhaps a short story would cheer you up?",
        "sorry",
    ),
    "thanks": _piece(
        "Thank you! | Thanks | Thanks a lot! | Thank you very much. | Great, thanks! | thx | Many thanks. | "
        "Thank you so much! | That was helpful, thanks. | Thank you for your help. | Perfect, thank you. | "
        "Thanks for your help. | ty | Cool, thanks | thank you, model",
        "You are welcome! | You are welcome! Is there anything else?",
        "welcome",
    ),
    "bye": _piece(
        "Bye! | Goodbye | Bye bye | See you! | See you later. | I have to go. | Good night! | Good night | "
        "Until next time. | Take care! | Have a nice day! | I must leave now. | cu | So long! | Bye for now",
        "Goodbye! Have a nice day. | Goodbye! It was nice to talk to you.",
        "goodbye",
    ),
    "praise": _piece(
        "Well done! | Good answer. | You are great! | That is right. | Good job! | I like you. | You are "
        "smart. | Nice! | Great! | Wow! | That was good. | Correct! | You are clever. | Very good. | Awesome",
        "Thank you, that is kind of you! | Thank you! I do my best.",
        "thank you",
    ),
    "blame": _piece(
        "That is wrong. | You are wrong. | That is not right. | Bad answer. | You made a mistake. | No, "
        "wrong! | You are stupid. | I do not like you. | That makes no sense. | You are useless. | This is "
        "bad.",
        "I am sorry. I am a very small model, and I make mistakes. | I am sorry about that. A small model "
        "makes mistakes.",
        "sorry",
    ),
    "sorry": _piece(
        "Sorry. | I am sorry. | My mistake. | Excuse me. | Oh, sorry! | I apologize. | Pardon me.",
        "No problem at all! | That is all right.",
        "no problem | all right",
    ),
    "yes": _piece(
        "Yes. | Ok | Okay | Sure. | Yes please | Yeah | Right. | I see. | Fine. | Alright | Yep | Hm",
        "Good! What would you like to know? | Good. Ask me something.",
        "good",
    ),
    "no": _piece(
        "No. | No thanks. | Nope | Not now. | Nothing. | No, thank you. | Never mind. | Forget it.",
        "That is all right. Ask me whenever you like.",
        "all right",
    ),
    "joke": _piece(
        "Tell me a joke. | Do you know a joke? | Say something funny. | Make me laugh. | A joke, please. | "
        "Can you tell a joke? | Another joke! | I want to hear a joke. | joke | Know any jokes? | Be funny. "
        "| Tell me something funny.",
        "Why did the worker join the mesh? It did not want to carry the whole load alone. | Why was the "
        "token so calm? It knew that the next one would come. | What did the gateway say to the slow "
        "worker? Take your time, I have other streams. | Why did the clock go to school? It wanted to learn "
        "to tell the time. | What does a cloud wear under its coat? Thunderwear.",
        "worker | token | clock | cloud",
    ),
    "empty": _piece(
        "... | . | ? | !! | hmm | - | ?? | …",
        "I am here. Ask me something, for example about the mesh.",
        "ask me",
    ),
    "help offer": _piece(
        "I need help. | Can you help me? | Could you help me? | I have a question. | May I ask something? | "
        "Can I ask you a question? | I have a problem. | Please help. | I want to ask you something.",
        "Of course! What would you like to know? | Of course, ask me.",
        "of course",
    ),
    "bored": _piece(
        "I am bored. | What should I do? | I have nothing to do. | I'm so bored. | Entertain me. | Let's do "
        "something. | What shall we do now?",
        "We could do some sums, or I could tell you a story. What would you like? | Ask me for a story or a joke!",
        "story",
    ),
    "test": _piece(
        "Test | This is a test. | Testing | test 1 2 3 | Is this working? | Are you there? | Does this "
        "work? | ping | Can you hear me? | Do you work? | Just testing. | testing testing",
        "Yes, it works. I am here! | It works! I read you well.",
        "works",
    ),
    "favourite": _piece(
        "What is your favourite colour? | What's your favorite color? | Which colour do you like best? | Do "
        "you have a favourite colour? | What colour do you like? | Tell me your favorite color.",
        "I like green, because it is the colour of a passing test.",
        "green",
    ),
    "food": _piece(
        "What do you eat? | Are you hungry? | Do you like pizza? | What is your favourite food? | Do you "
        "eat? | What would you like to eat? | Do you drink coffee?",
        "I do not eat or drink, but I am always hungry for tokens.",
        "tokens",
    ),
    "languages": _piece(
        "Do you speak German? | Do you speak French? | Which languages do you speak? | Can you speak "
        "Spanish? | What languages do you know? | Do you understand Chinese? | Do you speak English?",
        "I only speak a little English.",
        "english",
    ),
}

FACTS = tuple(
    _piece(*row)
    for row in (
        (
            "What colour is the sky? | What color is the sky? | Which colour has the sky? | Is the sky "
            "blue? | Tell me the colour of the sky. | Say, what colour does the sky have?",
            "The sky is blue on a clear day.",
            "blue",
        ),
        (
            "What colour is grass? | What color is grass? | Which colour has grass? | Is grass green? | "
            "Tell me the colour of grass. | Say, what colour does grass have?",
            "Grass is green.",
            "green",
        ),
        (
            "What colour is snow? | What color is snow? | Which colour has snow? | Is snow white? | Tell me "
            "the colour of snow. | Say, what colour does snow have?",
            "Snow is white.",
            "white",
        ),
        (
            "How many days are in a week? | How many days does a week have? | How long is a week? | Number "
            "of days in a week? | A week has how many days? | Tell me how many days a week has.",
            "A week has seven days.",
            "seven",
        ),
        (
            "How many months are in a year? | How many months does a year have? | How long is a year in "
            "months? | Number of months in a year? | A year has how many months? | Tell me how many months "
            "a year has.",
            "A year has twelve months.",
            "twelve",
        ),
        (
            "How many hours are in a day? | How many hours does a day have? | How long is a day? | Number "
            "of hours in a day? | A day has how many hours? | Tell me how many hours a day has.",
            "A day has 24 hours.",
            "24",
        ),
        (
            "How many minutes are in an hour? | How many minutes does an hour have? | How long is an hour? "
            "| Number of minutes in an hour? | An hour has how many minutes? | Tell me how many minutes an "
            "hour has.",
            "An hour has 60 minutes.",
            "60",
        ),
        (
            "What is the capital of France? | capital of France | Which city is the capital of France? | "
            "Name the capital of France. | Do you know the capital of France? | Tell me the French capital.",
            "The capital of France is Paris.",
            "paris",
        ),
        (
            "What is the capital of Germany? | capital of Germany | Which city is the capital of Germany? | "
            "Name the capital of Germany. | Do you know the capital of Germany? | Tell me the German "
            "capital.",
            "The capital of Germany is Berlin.",
            "berlin",
        ),
        (
            "What is the capital of Italy? | capital of Italy | Which city is the capital of Italy? | Name "
            "the capital of Italy. | Do you know the capital of Italy? | Tell me the Italian capital.",
            "The capital of Italy is Rome.",
            "rome",
        ),
        (
            "What is the capital of Japan? | capital of Japan | Which city is the capital of Japan? | Name "
            "the capital of Japan. | Do you know the capital of Japan? | Tell me the Japanese capital.",
            "The capital of Japan is Tokyo.",
            "tokyo",
        ),
        (
            "What is the capital of England? | capital of England | Which city is the capital of England? | "
            "Name the capital of England. | Do you know the capital of England? | Tell me the English "
            "capital.",
            "The capital of England is London.",
            "london",
        ),
        (
            "What is the capital of Spain? | capital of Spain | Which city is the capital of Spain? | Name "
            "the capital of Spain. | Do you know the capital of Spain? | Tell me the Spanish capital.",
            "The capital of Spain is Madrid.",
            "madrid",
        ),
        (
            "How many legs does a dog have? | How many legs has a dog? | Number of legs of a dog? | A dog "
            "has how many legs? | Does a dog have four legs? | Tell me how many legs a dog has.",
            "A dog has four legs.",
            "four",
        ),
        (
            "How many legs does a spider have? | How many legs has a spider? | Number of legs of a spider? "
            "| A spider has how many legs? | Does a spider have eight legs? | Tell me how many legs a "
            "spider has.",
            "A spider has eight legs.",
            "eight",
        ),
        (
            "What do bees make? | What do bees do? | What does a bee make? | Do bees make honey? | Tell me "
            "what bees make. | Which food comes from bees?",
            "Bees make honey.",
            "honey",
        ),
        (
            "What sound does a cat make? | What does a cat say? | How does a cat sound? | Which sound do "
            "cats make? | What do cats say? | Tell me the sound of a cat.",
            "A cat says meow.",
            "meow",
        ),
        (
            "What sound does a dog make? | What does a dog say? | How does a dog sound? | Which sound do "
            "dogs make? | What do dogs say? | Tell me the sound of a dog.",
            "A dog says woof.",
            "woof",
        ),
    )
)

OPPOSITES = tuple(
    (pair.split("/")[0], pair.split("/")[1])
    for pair in (
        "hot/cold big/small fast/slow up/down left/right day/night old/new good/bad happy/sad light/dark "
        "high/low open/closed full/empty hard/soft long/short early/late rich/poor strong/weak wet/dry "
        "clean/dirty near/far loud/quiet first/last true/false black/white in/out start/stop win/lose "
        "begin/end thick/thin"
    ).split()
)

TOPICS = _split(
    "Peru | Norway | Kenya | Chile | Korea | Albert Einstein | Napoleon | Cleopatra | the theory of "
    "relativity | physics | football | the moon | cooking | history | a car | the stock market | gold | "
    "quantum mechanics | bread | music | chess | Rome | the weather | love | the meaning of life | a "
    "bicycle | mathematics | biology | the ocean | volcanoes | time travel | a computer | money | "
    "philosophy | the president | the war | poetry | art | a telephone | the human brain | gravity | "
    "electricity | a rocket | chemistry | the universe | democracy | a virus | the heart | photosynthesis | "
    "an atom | steel | the internet | a camera | film | tennis | the sun | dinosaurs | oil | medicine | "
    "neural networks | machine learning | databases | Linux | a compiler | sorting | recursion | the king | "
    "law | Mars | religion | insects | whales | wine | cheese | rice | sugar | coffee plants | glass | "
    "paper | a bridge | the pyramids | evolution | climate change | inflation | taxes | insurance | a "
    "mortgage | yoga | sleep | dreams | memory | colour theory | painting | dancing | gardening | fishing | "
    "swimming | reading | singing | hiking | Python code | Kubernetes | Docker | black holes | a triangle | "
    "the piano | the ancient Greeks | Shakespeare | airplanes | trains | a passport | Africa"
)

UNKNOWN = (
    "Explain {} in detail.",
    "Who invented {}?",
    "What is the history of {}?",
    "Write an essay about {}.",
    "What do you think about {}?",
    "Tell me something about {}.",
    "Who is {}?",
    "Where is {}?",
    "How does {} work?",
    "What is {}?",
    "Why is {} important?",
    "Write a poem about {}.",
    "Translate {} into French.",
    "When was {} discovered?",
    "How much does {} cost?",
    "What is the price of {}?",
    "Is {} dangerous?",
    "Who won the {} prize last year?",
    "What is the capital of {}?",
    "How can I learn {}?",
    "Write a program about {}.",
    "Write code for {}.",
    "Write an email about {}.",
    "Can you summarize {}?",
    "What are the pros and cons of {}?",
    "How many people like {}?",
    "Compare {} with something else.",
    "Give me facts about {}.",
    "Do you know {}?",
    "What happened to {}?",
    "Tell me about {}.",
    "Explain {}",
    "What does {} mean?",
    "How do I fix {}?",
    "Where can I buy {}?",
    "What is the best {}?",
    "Discuss {} please.",
    "Which book about {} should I read?",
    "What is known about {}?",
    "How old is {}?",
)
UNKNOWN_SAYINGS = _split(
    "What is the weather today? | What time is it? | What day is it? | What is the news? | Who is the "
    "president? | Will it rain tomorrow? | Write a Python function that sorts a list. | Write a haiku. | "
    "Write me a song. | Translate good morning into German. | What is the square root of 2? | Solve x + 3 = "
    "7. | Play chess with me. | What is the population of the world? | Draw a picture. | Search the "
    "internet. | Open a file. | Fix my code: for i in range(10) print(i) | def f(x): return x + 1 | SELECT "
    "name FROM users; | import os | Guten Tag, wie geht es dir? | Bonjour, comment ça va? | ¿Qué hora es? | "
    "Was ist das? | Où est la gare? | 你好，你是谁？ | これは何ですか | Привет, как дела? | 😀 | 🚀🚀 | Wie heißt du? "
    "| Hola | Ciao, come stai? | Book a table for two. | Send a mail to my boss. | What is 12 divided by 5? | Give "
    "me medical advice. | How do I lose weight? | Should I buy this house? | Who will win the election? | "
    "Predict the future. | Write my homework. | Recommend a film. | What should I cook tonight? | How far "
    "is it to the sun? | What is the tallest mountain? | Who painted that? | Explain this joke. | Prove "
    "this theorem. | Roll a die. | How tall are you? | What did you do yesterday? | Where were you born? | "
    "Remind me to call my mother. | Set an alarm for seven. | Tell me a secret. | What is your phone "
    "number? | Write a business plan. | What is the fastest car? | Summarize this text for me. | Correct my "
    "grammar. | Give me a recipe for soup."
)
