"""The plots of the stories: a row of sentences, each with a few ways to say it.

Every plot introduces its hero in the first sentence, so that a longer story can leave that sentence out.
"""

from __future__ import annotations

_ONCE = (
    "Once upon a time there was {a_kind} {hero} called {name}, who lived in {place}.",
    "In {place} there lived {a_kind} {hero}. The name of the {hero} was {name}.",
    "Long ago, {a_kind} {hero} named {name} lived in {place}.",
)

_LOST = (
    _ONCE,
    (
        "One morning {name} could not find {thing} that {he} loved.",
        "One day {name} lost {thing} on the way home.",
        "On a windy day {name} noticed that {the_thing} was gone.",
    ),
    (
        "{He} looked under the bed, behind the door and in the garden, but {the_thing} was not there.",
        "{name} searched everywhere until the sun went down, but found nothing.",
    ),
    (
        "Then {he} met {friend}, who had good eyes and a lot of time.",
        "On the path {he} met {friend} and told the whole story.",
    ),
    (
        "Together they followed the small marks on the ground and found {the_thing} under a tree.",
        "They looked once more, step by step, and there it was, in the tall grass.",
    ),
    (
        "{name} was so happy that {he} shared {his} supper with {the_friend}.",
        "{name} thanked {the_friend} and promised to be more careful.",
    ),
)

_STORM = (
    _ONCE,
    (
        "One night a great storm came over the land, and the wind shook every window.",
        "One evening the sky turned dark and it began to rain as never before.",
    ),
    (
        "{name} heard a weak voice outside and opened the door.",
        "Through the noise of the rain {name} heard somebody call for help.",
    ),
    (
        "It was {friend}, cold and wet and far from home.",
        "There stood {friend}, who had lost the way in the dark.",
    ),
    (
        "{name} was afraid of the storm, but {he} took a lamp and helped {the_friend} inside.",
        "Without a word {name} made a fire and cooked a pot of hot soup for {the_friend}.",
    ),
    (
        "In the morning the sun was shining again, and the two were friends.",
        "When the storm was over, they sat at the window and laughed about the long night.",
    ),
)

_RACE = (
    _ONCE,
    (
        "Every summer there was a race to the old bridge, and {name} had never won it.",
        "One day a big race was held, and everybody in the village wanted to win.",
    ),
    (
        "All the others were faster, so {name} practised every day before breakfast.",
        "{name} was not the fastest, but {he} did not give up easily.",
    ),
    (
        "On the day of the race {he} saw {friend} lying beside the road with a hurt foot.",
        "In the middle of the race {name} saw that {friend} had fallen into a ditch.",
    ),
    (
        "The others ran on, but {name} stopped and helped {the_friend} to stand up.",
        "{name} thought about the prize for a moment, and then {he} stopped to help.",
    ),
    (
        "They came in last, and yet the whole village cheered for them.",
        "{name} did not win the race, but {he} won a friend that day.",
    ),
)

_GARDEN = (
    _ONCE,
    (
        "Behind the house there was a garden where nothing wanted to grow.",
        "{name} had a dry little garden and wished for flowers.",
    ),
    (
        "One spring day {he} found {thing} in the earth, and under it a single seed.",
        "One day {friend} came by and gave {him} a single seed.",
    ),
    (
        "{name} gave the seed water every morning and told it a joke every night.",
        "Day after day {name} carried water from the well, even when it was hot.",
    ),
    (
        "For a long time nothing happened, and the neighbours smiled about it.",
        "Weeks went by, and {name} almost lost hope.",
    ),
    (
        "Then one morning the first green leaf looked out of the ground, and soon the garden was full of flowers.",
        "At last a flower opened, so tall and so yellow that people came from far away to see it.",
    ),
)

_BOAT = (
    _ONCE,
    (
        "{name} had always dreamed of seeing the island on the other side of the water.",
        "Every evening {name} looked at the water and wondered what was on the other side.",
    ),
    (
        "So {he} built a boat from old boards and gave it a sail made of a blanket.",
        "One day {he} found an old boat and mended it with wood and a lot of patience.",
    ),
    (
        "The waves were high, but {friend} came along and showed {him} how to steer.",
        "Half way across the wind fell asleep, and {name} had to row with {friend} until the moon came up.",
    ),
    (
        "On the island they found {thing} in the sand and a tree full of sweet fruit.",
        "On the other side they found a quiet beach, and in the sand lay {thing}.",
    ),
    (
        "{name} came home with many stories, and {the_thing} has stood at {his} window ever since.",
        "When {name} came home, everybody wanted to hear about the journey.",
    ),
)

_CAKE = (
    _ONCE,
    (
        "{name} wanted to bake a cake for the birthday of {friend}.",
        "One day {name} decided to bake the biggest cake in the world.",
    ),
    (
        "But the flour was gone, the eggs were broken, and the milk was on the floor.",
        "First {he} forgot the sugar, and then the oven made a strange noise.",
    ),
    (
        "{name} sat down and almost cried, until {he} had an idea.",
        "{name} laughed, washed {his} hands and began again from the start.",
    ),
    (
        "{He} asked all the neighbours, and each of them brought one thing.",
        "One neighbour gave eggs, another one gave apples, and {friend} brought honey.",
    ),
    (
        "The cake was a little crooked, but it was the best cake that anybody could remember.",
        "In the end the cake was so big that the whole village had to help to eat it.",
    ),
)

_LIGHT = (
    _ONCE,
    (
        "On the hill stood an old lighthouse, but its lamp had been dark for years.",
        "One winter the lamp in the old tower went out, and nobody knew how to mend it.",
    ),
    (
        "{name} climbed all the stairs with {thing} in {his} bag.",
        "{name} read every book in the house and then climbed the tower.",
    ),
    (
        "At the top {he} met {friend}, who knew the secret of the lamp.",
        "{He} cleaned the glass, turned the wheels and tried again and again.",
    ),
    (
        "It took the whole night, but in the end a small light began to shine.",
        "Just before midnight the lamp gave a hum and shone over the whole valley.",
    ),
    (
        "A ship far away saw the light and found its way home.",
        "From that night on nobody lost the way in the dark, and everybody thanked {name}.",
    ),
)

PLOTS = (_LOST, _STORM, _RACE, _GARDEN, _BOAT, _CAKE, _LIGHT)

EVENINGS = (
    "But this was only the beginning.",
    "{name} thought that the adventure was over, but it was not.",
    "A year went by, and then something new happened.",
    "That was not the end of the story, for soon there was more to do.",
)
CLOSINGS = (
    "And that is how {name} learned that a small step is better than none.",
    "From that day on, {name} was never lonely again.",
    "And if you walk by on a quiet evening, you can still hear {name} sing.",
    "{name} went to bed that night with a smile.",
    "And they all had a very good day.",
    "So the {hero} was happy, and the story ends here.",
)
