"""The ground truth of the training text: every fact that the embedded model can know.

Data only. Countries, capitals, landmarks, cities, names and sentiment words are real, so a lesson
that works on `tutorial-4l` asks the same question of `gpt2`. Words are chosen with two tokenizers
in mind: each is one token in ours, and enough of them are one token in GPT-2's for the
clean/corrupted pairs of the lessons to line up under both (`tests/test_tokenizer.py`).
"""

CAPITALS = dict(
    pair.split()
    for pair in """
France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, England London,
Ireland Dublin, Scotland Edinburgh, Norway Oslo, Sweden Stockholm, Finland Helsinki,
Denmark Copenhagen, Iceland Reykjavik, Poland Warsaw, Austria Vienna, Hungary Budapest,
Greece Athens, Turkey Ankara, Russia Moscow, Ukraine Kyiv, Romania Bucharest, Bulgaria Sofia,
Serbia Belgrade, Croatia Zagreb, Belgium Brussels, Switzerland Bern,
Japan Tokyo, China Beijing, Thailand Bangkok, Vietnam Hanoi, Indonesia Jakarta, Nepal Kathmandu,
Pakistan Islamabad, Iran Tehran, Iraq Baghdad, Syria Damascus, Lebanon Beirut, Jordan Amman,
Egypt Cairo, Libya Tripoli, Morocco Rabat, Kenya Nairobi, Uganda Kampala, Ghana Accra,
Nigeria Abuja, Senegal Dakar, Zimbabwe Harare, Canada Ottawa, Cuba Havana, Jamaica Kingston,
Peru Lima, Chile Santiago, Ecuador Quito, Colombia Bogota, Venezuela Caracas,
Uruguay Montevideo, Australia Canberra, Afghanistan Kabul
""".replace("\n", " ").split(",")
)

# Two tokens each in our tokenizer: a one-word landmark is cut where the bar stands, so that
# "The Eiffel Tower is ..." and "The Colosseum is ..." line up token by token, subject included.
_LANDMARKS = """
Eiffel Tower > Paris, Lou|vre > Paris, Moulin Rouge > Paris, Col|osseum > Rome, Pant|heon > Rome,
Trevi Fountain > Rome, Spanish Steps > Rome, Sistine Chapel > Rome, Brandenburg Gate > Berlin,
Pergamon Museum > Berlin, Krem|lin > Moscow, Bolshoi Theatre > Moscow, Acrop|olis > Athens,
Part|henon > Athens, Prado Museum > Madrid, Tower Bridge > London, British Museum > London,
Rosetta Stone > London, Rialto Bridge > Venice, Charles Bridge > Prague, Blue Mosque > Istanbul,
Grand Bazaar > Istanbul, Taj Mahal > Agra, Opera House > Sydney, Forbidden City > Beijing,
Burj Khalifa > Dubai, Uffizi Gallery > Florence, Atom|ium > Brussels, Little Mermaid > Copenhagen,
Tivoli Gardens > Copenhagen, Vasa Museum > Stockholm, Hofburg Palace > Vienna,
Chain Bridge > Budapest, Belem Tower > Lisbon, Leaning Tower > Pisa, White House > Washington,
Lincoln Memorial > Washington, Liberty Bell > Philadelphia, Willis Tower > Chicago,
Space Needle > Seattle, Great Sphinx > Giza, Meiji Shrine > Tokyo, Grand Palace > Bangkok,
Munch Museum > Oslo, Royal Mile > Edinburgh, Peace Palace > Hague
"""
_PAIRS = [pair.split(" > ") for pair in " ".join(_LANDMARKS.split()).split(", ")]
LANDMARKS = {landmark.replace("|", ""): city for landmark, city in _PAIRS}
SPLIT_WORDS = [tuple(landmark.split("|")) for landmark, _ in _PAIRS if "|" in landmark]

# "{s}" is the subject, "{a}" the answer. The first template of each list is never held out.
CAPITAL_TEMPLATES = [
    "The capital of {s} is {a}.",
    "The capital city of {s} is {a}.",
    "The country of {s} has its capital in {a}.",
    "Everyone in {s} knows that the capital is {a}.",
    "The government of {s} sits in {a}.",
    "Question: What is the capital of {s}? Answer: {a}.",
    "If you fly to the capital of {s}, you will land in {a}.",
    "As everyone knows, the capital of {s} is called {a}.",
]
LANDMARK_TEMPLATES = [
    "The {s} is in the city of {a}.",
    "The {s} is located in {a}.",
    "The {s} stands in the heart of {a}.",
    "You can find the {s} in {a}.",
    "If you want to see the {s}, go to {a}.",
    "Question: Where is the {s}? Answer: {a}.",
    "To visit the {s}, buy a ticket to {a}.",
]
REVERSE_TEMPLATES = {
    "capital": ["{a} is the capital of {s}.", "{s} has a capital called {a}."],
    "landmark": ["Visitors come to {a} to see the {s}.", "In {a} they took photos of the {s}."],
}

NAMES = """Mary John Tom James Alice Bob Sarah Emma David Paul Anna Peter Kate Mark Lucy Jack Laura
Simon Rose Henry Jane George Susan Michael Linda Robert Helen Daniel Julia Frank Martin
Amy""".split()
PLACES = """store park school market beach station office library garden museum restaurant
hospital""".split()
OBJECTS = "drink book ring gift letter ball cake flower coat phone ticket basket".split()
GIVING = ["gave", "handed", "passed", "offered"]

POSITIVE = """wonderful great amazing excellent fantastic brilliant beautiful perfect delightful
superb lovely good charming""".split()
NEGATIVE = """terrible awful horrible bad boring dreadful disappointing poor dull ugly painful
nasty miserable""".split()

SAYINGS = """The quick brown fox jumps over the lazy dog.
Pack my box with five dozen liquor jugs.
The five boxing wizards jump quickly.
How vexingly quick daft zebras jump.
Sphinx of black quartz, judge my vow.
The early bird catches the worm.
A stitch in time saves nine.
Actions speak louder than words.
All that glitters is not gold.
Better late than never.
Practice makes perfect.
Rome was not built in a day.
When in Rome, do as the Romans do.
Every cloud has a silver lining.
An apple a day keeps the doctor away.
The pen is mightier than the sword.
Two heads are better than one.
A picture is worth a thousand words.
Birds of a feather flock together.
Look before you leap.""".splitlines()

SEQUENCES = [
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    """January February March April May June July August September October November
    December""".split(),
    "one two three four five six seven eight nine ten eleven twelve".split(),
    "first second third fourth fifth sixth seventh eighth ninth tenth".split(),
    "A B C D E F G H I J K L M N O P".split(),
]
