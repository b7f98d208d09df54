"""The words of pocket-gpt's world: every class of every attribute has its own lexicon.

An attribute (topic, sentiment, ...) takes one of several classes in a sentence, and shows itself only by which words
stand there. Within a lexicon the first words are the most frequent ones, as in any language. Nothing else in the
project lists words.
"""

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    name: {key: tuple(words.split()) for key, words in classes.items()}
    for name, classes in {
        "topic": {
            "politics": "treaty senate minister border ballot embassy parliament mayor council law envoy summit",
            "sport": "goal team league trophy coach stadium referee sprint medal penalty racket champion",
            "business": "bank market profit merger share invoice budget client tariff dividend loan retail",
            "technology": "chip software robot laptop network sensor battery server pixel database browser code",
            "food": "soup bread cheese pepper noodle honey salad onion butter rice pastry lentil",
            "music": "violin melody choir drum chorus concert rhythm flute opera guitar ballad anthem",
        },
        "action": {  # what one does in each topic
            "politics": "signed vetoed debated ratified elected repealed lobbied governed",
            "sport": "scored kicked trained tackled raced defended juggled hurdled",
            "business": "sold bought traded insured priced exported audited leased",
            "technology": "coded installed scanned patched encrypted uploaded debugged compiled",
            "food": "cooked baked tasted fried chopped boiled peeled roasted",
            "music": "sang tuned composed hummed strummed conducted recorded rehearsed",
        },
        "sentiment": {  # strength, from 1 (worst) to 5 (best)
            "1": "awful horrible dreadful vile atrocious ghastly appalling hideous rotten wretched abysmal putrid",
            "2": "dull poor weak bland shabby clumsy tedious flawed stale lame dreary faulty",
            "3": "ordinary average usual plain common typical standard regular normal moderate medium routine",
            "4": "nice decent pleasant good tidy solid likable neat charming fine handy cosy",
            "5": "superb brilliant splendid perfect stunning glorious marvellous fantastic sublime dazzling heavenly",
        },
        "reaction": {  # the verbs of the same five strengths
            "1": "hated loathed despised cursed detested abhorred",
            "2": "disliked doubted avoided questioned resented criticised",
            "3": "noticed mentioned described watched observed viewed",
            "4": "liked enjoyed welcomed favoured appreciated approved",
            "5": "adored cherished worshipped treasured idolised revered",
        },
        "stance": {
            "objective": "officially reportedly formally legally publicly technically annually statistically "
            "measurably nominally verifiably numerically",
            "subjective": "honestly frankly surely personally luckily sadly oddly arguably hopefully admittedly "
            "obviously truly",
        },
        "person": {
            "family": "mother uncle sister cousin grandpa nephew aunt brother",
            "worker": "teacher plumber nurse farmer lawyer sailor tailor miner",
            "animal": "dog fox parrot horse rabbit otter goat badger",
        },
        "place": {
            "sea": "harbour beach reef pier lagoon lighthouse dock bay",
            "town": "street plaza suburb avenue alley tower subway square",
            "hills": "valley peak meadow glacier ridge cliff canyon slope",
            "home": "kitchen attic cellar bedroom garage hallway porch pantry",
        },
        "time": {
            "morning": "dawn sunrise breakfast daybreak cockcrow reveille",
            "midday": "noon midday lunch siesta lunchtime noontide",
            "evening": "dusk sunset supper twilight nightfall bedtime",
        },
        "colour": {
            "red": "red scarlet crimson ruby maroon cherry",
            "blue": "blue azure navy cobalt indigo sapphire",
            "green": "green olive emerald lime jade mint",
        },
        "tense": {
            "past": "was",
            "present": "is",
            "future": "becomes",
        },
        "commitment": {  # the verbs of saying, by what they tell about the clause that they govern
            "entails": "knew proved realised confirmed established discovered verified revealed remembered found",
            "contradicts": "disproved refuted pretended faked imagined misjudged invented feigned rejected disbelieved",
            "neither": "hoped guessed asked wondered suspected feared supposed wished expected assumed",
        },
        "verdict": {  # what a statement says about the one after it
            "entails": "indeed yes right correct agreed granted",
            "contradicts": "wrong never no untrue denied false",
            "neither": "maybe perhaps unclear unknown possibly undecided",
        },
    }.items()
}

STATES = tuple(
    "open shut hot cold wet dry full empty clean dirty heavy light fast slow loud quiet bright dark new old "
    "far rough smooth sharp blunt thick thin hard soft high low".split()
)

# Lists in text stand in many formats: a word before each item, a word after it. A task's pair is never among them.
BEFORE = tuple(
    "Sentence Review Input Article Premise Text Item Note Line Entry Record Case Message Story Phrase".split()
)
AFTER = tuple("Label Mood Type Topic Answer Grade Class Tag Group Kind Category Mark Name Sort Side".split())
BETWEEN = tuple("Question Claim Then Next Reply".split())

# Words that mean nothing: the labels of most lists, and the targets of "arbitrary labels".
NONSENSE = tuple(
    onset + rime
    for onset in "bl d fl gr k m pl sn tr v w z".split()
    for rime in "axo epu igo obi unku asti erpo ilka oftu umpi".split()
)
