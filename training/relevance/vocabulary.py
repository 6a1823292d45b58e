"""Which phrases mean which thing: the teacher's names, their synonyms and our own list of everyday words."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from shared.arrays import Float32Array
from training.relevance.photos import Photo
from transmitter.relevance.phrases import split_query

ALIASES: Final[dict[str, str]] = {
    "person": "people,human,human being,man,woman,boy,girl,child,kid,baby,toddler,adult,lady,gentleman,guy,"
    "player,baseball player,tennis player,soccer player,skier,snowboarder,surfer,skateboarder,rider,cyclist,"
    "motorcyclist,pedestrian,passenger,driver,batter,catcher,umpire,pitcher,athlete,chef,cook,waiter,"
    "astronaut,cosmonaut,soldier,police officer,policeman,firefighter,fireman,nurse,doctor,teacher,student,"
    "worker,farmer,businessman,bride,groom,spectator,tourist,swimmer,dancer,singer,musician,actor,teenager,"
    "someone,somebody,anyone,family,portrait,body",
    "bicycle": "bike,cycle,push bike",
    "car": "automobile,sedan,taxi,cab,suv,vehicle on road,police car,race car",
    "motorcycle": "motorbike,scooter,moped,dirt bike",
    "airplane": "plane,aeroplane,aircraft,jet,airliner,jumbo jet,biplane",
    "bus": "coach,double decker,school bus,tour bus",
    "train": "locomotive,railway train,steam train,passenger train,tram",
    "truck": "lorry,pickup,pickup truck,fire truck,van,semi",
    "boat": "ship,sailboat,canoe,kayak,ferry,yacht,rowboat,vessel",
    "traffic light": "stoplight,traffic signal,stop light",
    "fire hydrant": "hydrant,fireplug",
    "bench": "park bench,wooden bench",
    "bird": "duck,goose,pigeon,seagull,parrot,owl,chicken,swan,sparrow",
    "cat": "kitten,kitty,tabby,feline,tomcat,pussycat,house cat",
    "dog": "puppy,pup,hound,canine,terrier,retriever,bulldog,pug,doggy",
    "horse": "pony,foal,mare,stallion,colt",
    "sheep": "lamb,ram,ewe",
    "cow": "cattle,bull,calf,ox,steer",
    "elephant": "baby elephant",
    "bear": "polar bear,grizzly,brown bear,black bear,cub",
    "backpack": "rucksack,knapsack",
    "umbrella": "parasol",
    "handbag": "purse,bag,shoulder bag",
    "tie": "necktie,bow tie",
    "suitcase": "luggage,baggage,travel bag",
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
    "hot dog": "hotdog,sausage bun",
    "pizza": "pizza pie,pepperoni pizza",
    "donut": "doughnut",
    "cake": "birthday cake,cupcake,chocolate cake",
    "chair": "armchair,stool,seat,office chair",
    "couch": "sofa,loveseat,settee",
    "potted plant": "plant,houseplant,pot plant,flower pot",
    "bed": "mattress,bunk bed",
    "dining table": "table,dinner table,desk,kitchen table,coffee table",
    "toilet": "commode,toilet bowl,lavatory",
    "tv": "television,television set,monitor,screen,tv set",
    "laptop": "notebook computer,laptop computer,computer",
    "mouse": "computer mouse",
    "remote": "remote control,game controller,wii remote,controller",
    "keyboard": "computer keyboard",
    "cell phone": "phone,mobile phone,smartphone,cellphone,telephone,iphone",
    "microwave": "microwave oven",
    "oven": "stove,cooker",
    "sink": "basin,washbasin",
    "refrigerator": "fridge,freezer,icebox",
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


def alias_phrases(name: str) -> list[str]:
    """The phrases that mean one category, its own name first."""
    aliases = (ALIASES | STUFF | PARTS).get(name, "")
    return [name, *(alias for alias in aliases.split(",") if alias)]


def teacher_phrases(folder: Path) -> tuple[list[str], Float32Array]:
    """Phrases and the unit vectors they should get.

    Args:
        folder: holds `clip_vitb32_text.npz` and `lvis_synonyms.json`.

    Returns:
        Phrases as from `split_query`, and (count, 512): CLIP's, unit length, less the LVIS mean, unit length.
    """
    found = _clip_names(folder / "clip_vitb32_text.npz")
    for row in json.loads((folder / "lvis_synonyms.json").read_text()):
        source = found.get(plain(row["name"]))
        for synonym in row["synonyms"]:
            if source is not None:
                found.setdefault(plain(synonym), source)
    for phrase in [phrase for phrase in found if phrase.startswith("human ")]:
        found.setdefault(phrase.removeprefix("human "), found[phrase])
    for row, name in enumerate(STUFF):
        found.setdefault(name, _own_direction(row))
    for name in (*ALIASES, *GROUPS, *STUFF, *PARTS):
        for alias in alias_phrases(name):
            _blend(found, alias, name)
    found.pop("", None)
    return list(found), np.array(list(found.values()), np.float32)


def _blend(found: dict[str, Float32Array], alias: str, name: str) -> None:
    """Puts an alias halfway between what CLIP says of it (if anything) and the category it stands for."""
    anchor = found.get(plain(name))
    if anchor is None:
        anchor = np.sum([found[plain(member)] for member in GROUPS[name].split(",")], axis=0)
        anchor /= np.linalg.norm(anchor)
        found[plain(name)] = anchor
    blended = anchor + found.get(plain(alias), anchor)
    found[plain(alias)] = blended / np.linalg.norm(blended)


def _own_direction(row: int) -> Float32Array:
    """A fixed direction for a name that the teacher does not have."""
    vector = np.random.default_rng(1000 + row).normal(size=512).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def _clip_names(path: Path) -> dict[str, Float32Array]:
    data = np.load(path)
    vectors = data["vectors"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors -= vectors[[str(name).startswith("lvis/") for name in data["sets"]]].mean(0)
    sums: dict[str, Float32Array] = {}
    for name, vector in zip(data["names"], vectors, strict=True):
        sums[plain(name)] = sums.get(plain(name), 0) + vector / np.linalg.norm(vector)
    return {name: total / np.linalg.norm(total) for name, total in sums.items()}


def plain(name: str) -> str:
    """A teacher's name as the query splitter would give it."""
    bare = re.sub(r"\(.*?\)", " ", str(name)).replace("_", " ").replace("/", " ")
    return " ".join(word for piece in split_query(bare) for word in piece.split())


def nameable(photos: Iterable[Photo], folder: Path) -> list[Photo]:
    """The labelled photos whose label, or its last word, is among the teacher's phrases in `folder`."""
    known = set(teacher_phrases(folder)[0])
    return [photo for photo in photos if plain(photo.label) in known or plain(photo.label).split()[-1] in known]
