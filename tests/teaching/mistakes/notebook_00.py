"""Mistakes that readers make in 00_start_here, and a part of what they are told."""

from iclnb.teaching import checks


def put(labels, places, values):
    labels = labels.clone()
    labels[places] = values
    return labels


def spoil(labels, places):
    labels[places] = 1 - labels[places]
    return labels


MISTAKES = [
    (checks.mislabel, lambda labels, places: labels, "no label has changed"),
    (checks.mislabel, lambda labels, places: 1 - labels, "every label has changed"),
    (checks.mislabel, lambda labels, places: put(labels, places, 0), "you set the labels to 0"),
    (checks.mislabel, lambda labels, places: put(labels, places, 1), "you set the labels to 1"),
    (checks.mislabel, lambda labels, places: 1 - put(labels, places, 1 - labels[places]), "at the other places"),
    (checks.mislabel, lambda labels, places: (1 - labels)[places], "has shape (3,)"),
    (checks.mislabel, spoil, "one of its arguments in place"),
    (checks.mislabel, lambda labels, places: spoil(labels.clone(), slice(3)), "but not for others"),
    (checks.mislabel, lambda labels, places: spoil(labels.clone(), slice(len(places))), "but not for others"),
    (
        checks.mislabel,
        lambda labels, places: spoil(labels.clone(), places if len(places) else slice(3)),
        "where `places` is empty",
    ),
    (checks.mislabel, lambda labels, places: spoil(labels.clone(), places[:4]), "holds all of them"),
]
