"""What the lists are made of."""

from __future__ import annotations

from dataclasses import dataclass

CATEGORIES: dict[str, tuple[str, ...]] = {
    kind: tuple(items.split(", "))
    for kind, items in {
        "fruits": "apple, banana, cherry, grape, lemon, mango, orange, peach, pear, plum",
        "vegetables": "bean, cabbage, carrot, cucumber, leek, onion, pea, pepper, potato, spinach",
        "colours": "black, blue, brown, green, grey, orange, pink, purple, red, white, yellow",
        "colors": "black, blue, brown, green, grey, orange, pink, purple, red, white, yellow",
        "animals": "bear, cat, cow, dog, elephant, fox, goat, horse, lion, rabbit, tiger, wolf",
        "birds": "crow, dove, duck, eagle, goose, hawk, owl, parrot, robin, swan",
        "trees": "apple tree, beech, birch, cedar, elm, maple, oak, pine, willow",
        "flowers": "daisy, lily, orchid, poppy, rose, sunflower, tulip, violet",
        "sports": "basketball, boxing, cricket, football, golf, hockey, rowing, swimming, tennis",
        "drinks": "coffee, juice, lemonade, milk, tea, water, wine, beer",
        "tools": "axe, drill, hammer, knife, ladder, pliers, ruler, saw, screwdriver, shovel",
        "countries": "Brazil, Canada, China, Egypt, France, Germany, India, Italy, Japan, Mexico, Spain, Turkey",
        "cities": "Athens, Berlin, Cairo, Delhi, Lima, London, Madrid, Oslo, Paris, Rome, Tokyo, Vienna",
        "languages": "Arabic, Chinese, English, French, German, Hindi, Italian, Japanese, Spanish, Turkish",
        "programming languages": "C, Go, Java, JavaScript, Lisp, Perl, Python, Ruby, Rust, Swift",
        "instruments": "cello, drum, flute, guitar, harp, piano, trumpet, viola, violin",
        "musical instruments": "cello, drum, flute, guitar, harp, piano, trumpet, viola, violin",
        "jobs": "baker, cook, doctor, driver, farmer, nurse, painter, pilot, teacher, writer",
        "clothes": "belt, boots, coat, dress, gloves, hat, jacket, scarf, shirt, socks",
        "furniture": "bed, bench, bookcase, chair, cupboard, desk, lamp, shelf, sofa, table",
        "shapes": "circle, cone, cube, oval, rectangle, square, star, triangle",
        "planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
        "metals": "copper, gold, iron, lead, nickel, silver, tin, zinc",
        "rooms": "attic, bathroom, bedroom, cellar, hall, kitchen, living room, office",
        "parts of the body": "arm, back, ear, eye, foot, hand, head, knee, leg, mouth, nose",
        "parts of the mesh": "gateway, worker, engine, registry",
        "names": "Anna, Ben, Clara, David, Emma, Felix, Grace, Hugo, Iris, Jack, Lena, Max",
        "hobbies": "cooking, dancing, drawing, fishing, gardening, hiking, painting, reading, sewing, singing",
    }.items()
}

STEPS: dict[str, list[str]] = {
    task: steps.split("; ")
    for task, steps in {
        "make tea": "Boil some water.; Put a tea bag into a cup.; Pour the hot water over it.; Wait three "
        "minutes.; Take the tea bag out and enjoy your tea.",
        "make coffee": "Boil some water.; Grind the coffee beans.; Put the coffee into a filter.; Pour the water "
        "over it slowly.; Enjoy your coffee.",
        "boil an egg": "Fill a pot with water.; Bring the water to a boil.; Put the egg in gently.; Wait seven "
        "minutes.; Cool the egg in cold water.",
        "plant a seed": "Fill a pot with earth.; Make a small hole with a finger.; Put the seed into the hole.; "
        "Cover it with earth.; Give it a little water every day.",
        "wash my hands": "Turn on the water.; Wet both hands.; Rub them with soap for twenty seconds.; Rinse the "
        "soap off.; Dry your hands with a clean towel.",
        "brush my teeth": "Wet the brush.; Put some toothpaste on it.; Brush every tooth for two minutes.; Rinse "
        "your mouth.; Clean the brush.",
        "bake bread": "Mix flour, water, salt and yeast.; Knead the dough for ten minutes.; Let it rest for an "
        "hour.; Form a loaf.; Bake it until it is brown.",
        "write a letter": "Take a sheet of paper.; Write the date at the top.; Greet the person by name.; Say what "
        "you want to say.; Sign your name at the end.",
        "make a sandwich": "Take two slices of bread.; Put butter on them.; Add cheese and tomato.; Close the "
        "sandwich.; Cut it in half.",
        "make pancakes": "Mix flour, milk and eggs.; Heat a pan with a little butter.; Pour in some of the batter.; "
        "Turn the pancake when it is golden.; Serve it with jam.",
        "learn a song": "Listen to the song a few times.; Read the words.; Sing one line at a time.; Put the lines "
        "together.; Practise every day.",
        "clean a window": "Fill a bucket with warm water.; Add a little soap.; Wipe the glass with a cloth.; Pull "
        "the water off.; Dry the edges.",
        "use the mesh": "Run mesh up.; Wait for the ready line.; Send a request to port 8000.; Read the answer as "
        "it streams.; Press Ctrl-C to stop.",
        "serve my own model": "Put the model into a folder.; Run mesh up --model-path DIR with that folder.; Wait "
        "until the worker is ready.; Send a request to port 8000.",
    }.items()
}


@dataclass(frozen=True)
class Row:
    """Items that have one right order."""

    questions: tuple[str, ...]
    items: tuple[str, ...]


def _row(questions: str, items: str) -> Row:
    return Row(tuple(questions.split(" | ")), tuple(items.split(", ")))


ROWS = (
    _row(
        "List the days of the week. | What are the days of the week? | Name the seven days. | Tell me all "
        "days of the week. | Which days does a week have? | Tell me the days of a week.",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    ),
    _row(
        "List the months of the year. | What are the months? | Name all twelve months. | Tell me the months "
        "of the year. | Which months does a year have? | Tell me all the months.",
        "January, February, March, April, May, June, July, August, September, October, November, December",
    ),
    _row(
        "Say the alphabet. | What is the alphabet? | Write the alphabet. | List all letters. | Can you say "
        "the alphabet? | Tell me the alphabet.",
        ", ".join("abcdefghijklmnopqrstuvwxyz"),
    ),
    _row(
        "What are the seasons? | Name the four seasons. | List the seasons of the year. | Which seasons are "
        "there? | Tell me the seasons. | Give me the seasons in order.",
        "spring, summer, autumn, winter",
    ),
    _row(
        "List all the planets. | What are the planets in order? | Name the eight planets. | Which planets "
        "go around the sun? | Tell me all planets. | Give me the planets in order.",
        "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
    ),
    _row(
        "What are the colours of the rainbow? | List the colors of the rainbow. | Name the rainbow colours. "
        "| Which colours has a rainbow? | Tell me the colours of a rainbow. | Give me the colours of the "
        "rainbow.",
        "red, orange, yellow, green, blue, indigo, violet",
    ),
)
