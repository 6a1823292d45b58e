"""Which phrases mean which thing: the teacher's names, their synonyms and our own list of everyday words."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from shared.arrays import Float32Array
from training.relevance.photos import Photo
from transmitter.relevance.phrases import split_query, stem

ALIASES: Final[dict[str, str]] = {
    "person": "people,human,man,woman,boy,girl,child,kid,baby,toddler,adult,lady,gentleman,guy,"
    "player,baseball player,tennis player,soccer player,skier,snowboarder,surfer,skateboarder,rider,cyclist,"
    "motorcyclist,pedestrian,passenger,driver,batter,catcher,umpire,pitcher,athlete,chef,cook,waiter,"
    "astronaut,cosmonaut,soldier,police officer,policeman,firefighter,fireman,nurse,doctor,teacher,student,"
    "worker,farmer,businessman,bride,groom,spectator,tourist,swimmer,dancer,singer,musician,actor,teenager,"
    "someone,somebody,anyone,family,portrait,body",
    "bicycle": "bike,cycle,push bike,pushbike,mountain bike,road bike,two wheeler",
    "car": "automobile,auto,motorcar,motor car,sedan,hatchback,taxi,cab,suv,jeep,minivan,police car,"
    "race car,sports car",
    "motorcycle": "motorbike,motor bike,motor cycle,scooter,moped,dirt bike",
    "airplane": "plane,aeroplane,aircraft,jet,airliner,jumbo jet,jet plane,passenger plane,biplane",
    "bus": "coach,double decker,double decker bus,school bus,tour bus,city bus,autobus,omnibus",
    "train": "locomotive,railway train,steam train,passenger train,tram",
    "truck": "lorry,pickup,pickup truck,fire truck,delivery truck,semi truck,van,semi",
    "boat": "ship,sailboat,canoe,kayak,ferry,yacht,rowboat,vessel,dinghy,motorboat,speedboat",
    "traffic light": "stoplight,traffic signal,stop light,traffic lights,signal light",
    "fire hydrant": "hydrant,fireplug",
    "bench": "park bench,wooden bench,bench seat",
    "bird": "duck,goose,pigeon,seagull,parrot,owl,chicken,swan,sparrow",
    "cat": "kitten,kitty,tabby,tabby cat,feline,tomcat,pussycat,house cat,housecat,cats",
    "dog": "puppy,pup,hound,canine,terrier,retriever,bulldog,pug,doggy,doggie,pooch",
    "horse": "pony,foal,mare,stallion,colt",
    "sheep": "lamb,ram,ewe",
    "cow": "cattle,bull,calf,ox,steer",
    "elephant": "baby elephant",
    "bear": "polar bear,grizzly,brown bear,black bear,cub",
    "backpack": "rucksack,knapsack,daypack",
    "umbrella": "parasol,brolly,sunshade",
    "handbag": "purse,bag,shoulder bag",
    "tie": "necktie,bow tie",
    "suitcase": "luggage,baggage,travel bag,valise,travelling case,trolley case,hand luggage",
    "frisbee": "flying disc",
    "skis": "ski,pair skis",
    "sports ball": "ball,soccer ball,football,tennis ball,basketball,baseball,volleyball",
    "baseball bat": "bat",
    "baseball glove": "mitt,catcher mitt",
    "skateboard": "longboard",
    "surfboard": "surf board,boogie board",
    "tennis racket": "racket,racquet,tennis racquet",
    "bottle": "wine bottle,beer bottle,water bottle",
    "wine glass": "goblet,wineglass",
    "cup": "mug,coffee cup,coffee mug,teacup,tea cup,cup coffee,cup tea,coffee,glass,espresso,cappuccino",
    "bowl": "soup bowl,dish",
    "sandwich": "burger,hamburger,sub,panini,toast",
    "orange": "tangerine,mandarin,orange fruit",
    "hot dog": "hotdog,sausage bun,frankfurter,frank,wiener,hot dog bun",
    "pizza": "pizza pie,pepperoni pizza",
    "donut": "doughnut,beignet",
    "cake": "birthday cake,cupcake,chocolate cake",
    "chair": "armchair,stool,seat,office chair,dining chair,arm chair",
    "couch": "sofa,loveseat,settee,divan,futon,davenport",
    "potted plant": "plant,houseplant,pot plant,flower pot,indoor plant",
    "bed": "mattress,bunk bed",
    "dining table": "table,dinner table,desk,kitchen table,coffee table",
    "toilet": "commode,toilet bowl,lavatory,loo,wc",
    "tv": "television,television set,telly,flat screen tv,monitor,screen,tv set",
    "laptop": "notebook computer,laptop computer,macbook,computer,notebook,portable computer",
    "mouse": "computer mouse",
    "remote": "remote control,game controller,wii remote,controller",
    "keyboard": "computer keyboard",
    "cell phone": "phone,mobile phone,mobile,smartphone,smart phone,cellphone,cellular phone,,handset"
    "cellular telephone,telephone,iphone",
    "microwave": "microwave oven",
    "oven": "stove,cooker",
    "sink": "basin,washbasin,washbowl,kitchen sink",
    "refrigerator": "fridge,freezer,icebox,ice box,cooler",
    "book": "books,novel,textbook",
    "clock": "alarm clock,clock face,wall clock",
    "vase": "flower vase",
    "teddy bear": "teddy,stuffed animal,stuffed bear,plush toy",
    "hair drier": "hairdryer,hair dryer,blow dryer",
}
"""Our own list: what people say, by what the annotations call it. All phrases of a row share their masks."""

GROUPS: Final[dict[str, str]] = {
    "animal": "bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe",
    "pet": "cat,dog",
    "vehicle": "bicycle,car,motorcycle,airplane,bus,train,truck,boat",
    "food": "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake",
    "fruit": "banana,apple,orange",
    "vegetable": "broccoli,carrot",
    "furniture": "chair,couch,bed,dining table,bench",
    "electronics": "tv,laptop,mouse,remote,keyboard,cell phone",
    "cutlery": "fork,knife,spoon",
    "appliance": "microwave,oven,toaster,refrigerator",
    "sports equipment": "frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,"
    "surfboard,tennis racket",
}
"""Words for several categories at once; their mask is the union."""

STUFF: Final[dict[str, str]] = {
    "sky": "clouds,cloud",
    "grass": "lawn,meadow,field",
    "road": "street,asphalt,highway,pavement,sidewalk",
    "wall": "brick wall",
    "floor": "ground,flooring",
    "water": "sea,ocean,lake,river,pool",
    "mountain": "hill,hillside,slope",
    "sand": "beach",
    "building": "house,skyscraper,architecture",
    "tree": "trees,forest,bush,foliage",
    "curtain": "drapes,blinds",
    "cabinet": "cupboard,wardrobe",
    "window": "windowpane",
}
"""Regions that are no things, by what the scene teacher calls them; for most of them CLIP gives us no name."""

PARTS: Final[dict[str, str]] = {"face": "human face,head,human head,smile"}
"""Parts of a person."""


_LOYALTY: Final = 0.75
"""Share of the category in the vector of its alias."""


def alias_phrases(name: str) -> list[str]:
    """The phrases that mean one category, its own name first."""
    aliases = (ALIASES | STUFF | PARTS).get(name, "")
    return [name, *(alias for alias in aliases.split(",") if alias)]


def teacher_phrases(
    folder: Path, held: Collection[str] = (), vectors: Mapping[str, Float32Array] | None = None
) -> tuple[list[str], Float32Array]:
    """Phrases and the unit vectors they should get.

    Args:
        folder: holds `clip_vitb32_text.npz` and `lvis_synonyms.json`.
        held: names whose vectors, with every phrase that would share them, are left out.
        vectors: what (at least) each of the teacher's names should get; none means CLIP's own.

    Returns:
        Phrases as from `split_query`, and (count, channels), unit length: by default CLIP's, less the LVIS mean.
    """
    found = clip_names(folder)
    if vectors is not None:
        found = {name: vectors[name] for name in found}
    for row in synonym_rows(folder):
        source = found.get(row[0])
        for synonym in row[1:]:
            if source is not None:
                found.setdefault(synonym, source)
    for phrase in [phrase for phrase in found if phrase.startswith("human ")]:
        found.setdefault(phrase.removeprefix("human "), found[phrase])
    groups = same_things(folder, (*found, *held, *GROUPS, *map(plain, _every_alias())))
    without = {groups[name] for name in held}
    found = {phrase: vector for phrase, vector in found.items() if phrase and groups[phrase] not in without}
    _add_groups(found, [name for name in GROUPS if groups.get(name) not in without])
    for name in ALIASES:
        for alias in alias_phrases(name):
            if name in found and groups.get(plain(alias)) not in without:
                blend(found, alias, found[name])
    return list(found), np.array(list(found.values()), np.float32)


def _every_alias() -> list[str]:
    return [alias for name in ALIASES for alias in alias_phrases(name)]


def synonym_rows(folder: Path) -> list[list[str]]:
    """LVIS's names, each followed by its synonyms, as phrases."""
    rows = json.loads((folder / "lvis_synonyms.json").read_text())
    return [[plain(row["name"]), *filter(None, map(plain, row["synonyms"]))] for row in rows]


def same_things(folder: Path, phrases: Iterable[str]) -> dict[str, str]:
    """One name for all phrases that would share a vector: other spellings, plurals, LVIS's synonyms."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for row in synonym_rows(folder):
        for synonym in row[1:]:
            leader[find(_spelling(synonym))] = find(_spelling(row[0]))
    return {phrase: find(_spelling(phrase)) for phrase in phrases}


def _spelling(phrase: str) -> str:
    words = phrase.removeprefix("human ").replace("-", " ").split()
    return "".join(stem(word) for word in words)


def _add_groups(found: dict[str, Float32Array], names: Iterable[str]) -> None:
    """Gives words for several categories the middle of those that are known."""
    for name in names:
        members = [found[member] for member in GROUPS[name].split(",") if member in found]
        if members:
            blend(found, name, unit(np.sum(members, axis=0, dtype=np.float32)))


def blend(found: dict[str, Float32Array], alias: str, anchor: Float32Array) -> None:
    """Puts an alias much nearer to what it stands for than to what is said of it elsewhere (if anything)."""
    said = found.get(plain(alias), anchor)
    found[plain(alias)] = unit(_LOYALTY * anchor + (1 - _LOYALTY) * said)


def unit(vector: Float32Array) -> Float32Array:
    """The vector at length one."""
    return np.asarray(vector / max(1e-9, float(np.linalg.norm(vector))), np.float32)


def spread(vectors: Float32Array, fixed: Float32Array, *, limit: float = 0.45) -> Float32Array:
    """Turns vectors away from each other and from fixed ones until no cosine is far above the limit.

    Args:
        vectors: (count, channels), unit length.
        fixed: (others, channels), unit length; they stay where they are.
        limit: cosine up to which two vectors leave each other alone.

    Returns:
        (count, channels), unit length.
    """
    # Vectors that are the same would be turned the same way for ever.
    turned = vectors + np.random.default_rng(0).normal(scale=1e-4, size=vectors.shape).astype(np.float32)
    for _ in range(200):
        around = np.concatenate([turned, fixed])
        excess = np.maximum(turned @ around.T - limit, 0)
        np.fill_diagonal(excess, 0)
        if not excess.any():
            break
        push = 0.3 * excess @ around
        turned = turned - push / np.maximum(1, np.linalg.norm(push, axis=1, keepdims=True))
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return np.asarray(turned, np.float32)


def clip_names(folder: Path) -> dict[str, Float32Array]:
    """The teacher's names as phrases, and the mean of their vectors under all its templates, unit length."""
    return _clip_names(folder / "clip_vitb32_text.npz")


def _clip_names(path: Path) -> dict[str, Float32Array]:
    data = np.load(path)
    vectors = data["vectors"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors -= vectors[[str(name).startswith("lvis/") for name in data["sets"]]].mean(0)
    sums: dict[str, Float32Array] = {}
    for name, vector in zip(data["names"], vectors, strict=True):
        sums[plain(name)] = sums.get(plain(name), 0) + vector / np.linalg.norm(vector)
    return {name: total / np.linalg.norm(total) for name, total in sums.items() if name}


def plain(name: str) -> str:
    """A teacher's name as the query splitter would give it."""
    bare = re.sub(r"\(.*?\)", " ", str(name)).replace("_", " ").replace("/", " ")
    return " ".join(word for piece in split_query(bare) for word in piece.split())


def nameable(photos: Iterable[Photo], folder: Path) -> list[Photo]:
    """The labelled photos whose label, or its last word, is among the teacher's phrases in `folder`."""
    known = {*teacher_phrases(folder)[0], *STUFF, *PARTS}
    return [photo for photo in photos if plain(photo.label) in known or plain(photo.label).split()[-1] in known]
