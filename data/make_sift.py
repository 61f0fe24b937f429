#!/usr/bin/python3
"""Make the SIFT data sets: `sift-sample` (ships with the project) and `sift-photos` (ten and more times larger).

128-d uint8 SIFT descriptors of real photographs that Debian packages ship (wallpapers, educational
software, sample images).  Needs a Debian 12 machine and nothing else:

    apt-get update && apt-get install python3-opencv python3-numpy
    data/make_sift.py --out data              # about 5 minutes on one core, 380 MB of packages

Steps (all deterministic: sorted file lists, fixed seeds, one OpenCV thread):
  1. `apt-get download` + `dpkg -x` every package of PACKAGES (nothing is installed);
  2. pick the photographs by the path patterns below (drawings, renders, screenshots, the same picture in
     other resolutions and the second view of stereo pairs are left out);
  3. drop near-duplicate pictures (256-bit difference hash, Hamming distance <= 12; the largest one stays);
  4. shrink to at most MAX_SIDE pixels, run cv2.SIFT, keep at most CAP random descriptors of each picture;
  5. drop exact duplicate descriptors globally;
  6. split BY PICTURE into learn / base / query, shuffle the rows, write bvecs files;
  7. exact ground truth: the TOP nearest base ids of every query by (squared L2 distance, id).

Output under --out: sift-photos/ and sift-sample/ (its first rows), each with {learn,base,query}.bvecs and
groundtruth.ivecs; pictures.tsv (package, picture, size, keypoints, descriptors kept, split). The packages and their
contents stay in --work (default OUT/make_sift.tmp), so that a second run downloads nothing.
bvecs/ivecs: each vector is an int32 little-endian dimension followed by its uint8 / int32 values.
"""
import argparse
import fnmatch
import os
import re
import subprocess

import cv2
import numpy as np

# package -> (patterns to take, patterns to leave out), matched against the path inside the package.
# A .rcc file (Qt resource bundle) stands for all WebP pictures inside it.
PACKAGES = {
    "gcompris-qt-data": (
        ["*/rcc/explore_monuments.rcc", "*/rcc/explore_farm_animals.rcc", "*/rcc/explore_world_animals.rcc",
         "*/rcc/explore_world_music.rcc", "*/rcc/details.rcc", "*/rcc/erase.rcc", "*/rcc/clickgame.rcc",
         "*/rcc/categorization.rcc", "*/rcc/solar_system.rcc"], []),
    "scratch": (
        ["*/Media/Backgrounds/*.jpg"],
        ["*/party-room.jpg", "*/room?.jpg", "*/spotlight-stage.jpg", "*/woods-and-bench.jpg", "*/brick-wall1.jpg"]),
    "tuxpaint-data": (["*/tuxpaint/templates/*.jpg", "*/starters/reef-back.png",
                       "*/starters/skyline-sf-dusk-back.jpeg"], []),
    "opencv-doc": (
        ["*/examples/data/*.jpg", "*/examples/data/*.png", "*/examples/text/scenetext*.jpg",
         "*/examples/hfs/data/*.jpg", "*/examples/alphamat/input_images/*.jpg"],
        # calibration boards, synthetic pictures, and the second picture of each pair of one scene
        ["*/left*.jpg", "*/right*.jpg", "*/HappyFish.jpg", "*/digits.png", "*/ellipses.jpg", "*/imageText?.png",
         "*/ml.png", "*/pca_test1.jpg", "*/pic?.png", "*/text_*.jpg", "*/notes.png", "*/aero3.jpg", "*/aloeR.jpg",
         "*/aloeGT.png", "*/basketball2.png", "*/box.png", "*/ela_modified.jpg", "*/graf3.png", "*/leuvenB.jpg",
         "*/rubberwhale2.png", "*/blox.jpg", "*/detect_blob.png", "*/gradient.png", "*/LinuxLogo.jpg",
         "*/WindowsLogo.jpg", "*/opencv-logo*.png", "*/mask.png", "*/tmpl.png", "*/templ.png", "*/stuff.jpg",
         "*/licenseplate_motion.jpg", "*/hand_*", "*/shape_sample/*", "*/*_mask*", "*/*logo*", "*/squirrel_cls_*"]),
    "plasma-workspace-wallpapers": (
        ["*/%s/contents/images/2560x1600.jpg" % n for n in
         ("BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
          "OneStandsOut", "Path", "summer_1am")], []),
    "mate-backgrounds": (["*/mate/nature/*.jpg"], []),
    "lomiri-wallpapers-16.04": (["*/backgrounds/*.jpg"], ["*/analogpattern_*"]),
    "lomiri-wallpapers-20.04": (["*/backgrounds/*.jpg"], ["*/Infinite-Sea_*"]),
    "lxqt-themes": (["*/wallpapers/%s" % n for n in
                     ("Butterfly-*.jpg", "Valendas.png", "after-the-rain.jpg", "appleflower.png", "beam.png",
                      "butterfly.png", "cloud.png", "drop.png", "flowers.png", "fog.jpg", "this-is-not-windows.jpg")],
                    []),
    "budgie-core": (["*/backgrounds/budgie/*.jpg"], []),
    "palapeli-data": (["*/collection/*.jpg"], []),
    "puzzle-jigsaw": (["*/samples/*.jp*g"], []),
    "sddm-theme-maldives": (["*/maldives/background.jpg"], []),
    "python3-skimage": (["*/skimage/data/*.png", "*/skimage/data/*.jpg"],
                        ["*/logo.png", "*/motorcycle_right.png", "*/color.png", "*/page.png", "*/text.png",
                         "*/*_disp*"]),
    "python3-sklearn": (["*/datasets/images/*.jpg"], []),
}
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".rcc")
MAX_SIDE = 2560          # larger pictures are shrunk to this many pixels on their longer side
MIN_SIDE = 150           # smaller pictures are skipped
MAX_FLAT = 0.6           # skip pictures where more than this fraction of neighbouring pixels is equal (vector art)
MIN_KEYPOINTS = 100      # skip pictures with fewer SIFT keypoints
CAP = 6500               # descriptors kept of one picture
CONTRAST = 0.03          # cv2.SIFT contrastThreshold (OpenCV default 0.04)
SEED = 20240501
LEARN, BASE, QUERY = 500_000, 500_000, 10_000
QUERY_EVERY = 14         # one picture of this many gives queries
SAMPLE_LEARN, SAMPLE_BASE, SAMPLE_QUERY = 50_000, 20_000, 1_000
TOP = 100                # ground-truth depth
SPLITS = ("learn", "base", "query")


# ---------------------------------------------------------------- pictures
def download(package, debs, trees):
    """`apt-get download` and unpack one package; returns (folder, version)."""
    tree = os.path.join(trees, package)
    have = [f for f in sorted(os.listdir(debs)) if f.startswith(package + "_")]
    if not have:
        subprocess.run(["apt-get", "download", package], cwd=debs, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        have = [f for f in sorted(os.listdir(debs)) if f.startswith(package + "_")]
    if not os.path.isdir(tree):
        subprocess.run(["dpkg", "-x", os.path.join(debs, have[0]), tree], check=True)
    return tree, have[0].split("_")[1]


def carve_webp(data):
    """All WebP pictures stored uncompressed inside a Qt resource bundle."""
    for m in re.finditer(rb"RIFF(....)WEBPVP8", data, re.S):
        size = int.from_bytes(m.group(1), "little") + 8
        yield data[m.start():m.start() + size]


def grey_picture(data):
    """Decode to 8-bit grey, shrunk to MAX_SIDE; None if it is no usable picture."""
    im = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if im is None or min(im.shape[:2]) < MIN_SIDE:
        return None, None
    size = "%dx%d" % (im.shape[1], im.shape[0])
    im = cv2.cvtColor(im, cv2.COLOR_BGR2GRAY)
    s = MAX_SIDE / max(im.shape)
    if s < 1:
        im = cv2.resize(im, None, fx=s, fy=s, interpolation=cv2.INTER_AREA)
    return im, size


def flatness(im):
    """Fraction of the pixels (at most 1024 on a side) that equal both their right and their lower neighbour."""
    s = 1024 / max(im.shape)
    g = (cv2.resize(im, None, fx=s, fy=s, interpolation=cv2.INTER_AREA) if s < 1 else im).astype(np.int16)
    return float(((np.diff(g, axis=1)[:-1] == 0) & (np.diff(g, axis=0)[:, :-1] == 0)).mean())


def difference_hash(im):
    g = cv2.resize(im, (17, 16), interpolation=cv2.INTER_AREA)
    return (g[:, 1:] > g[:, :-1]).ravel()


def pictures_in(package, tree):
    """(name, encoded bytes) of the pictures of an unpacked package that PACKAGES selects."""
    take, leave = PACKAGES[package]
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            inside = path[len(tree):]
            if not inside.lower().endswith(EXTENSIONS) or os.path.islink(path):
                continue
            if not any(fnmatch.fnmatchcase(inside, p) for p in take):
                continue
            if any(fnmatch.fnmatchcase(inside, p) for p in leave):
                continue
            with open(path, "rb") as f:
                data = f.read()
            if inside.endswith(".rcc"):
                yield from (("%s#%03d" % (inside, i), picture) for i, picture in enumerate(carve_webp(data)))
            else:
                yield inside, data


def collect(work):
    """[(package, name, size, grey picture)] of the photographs, near-duplicates removed, in sorted order."""
    debs, trees = os.path.join(work, "debs"), os.path.join(work, "img")
    os.makedirs(debs, exist_ok=True)
    os.makedirs(trees, exist_ok=True)
    found = []
    for package in sorted(PACKAGES):
        tree, version = download(package, debs, trees)
        before = len(found)
        for label, data in pictures_in(package, tree):
            im, size = grey_picture(data)
            if im is not None and flatness(im) <= MAX_FLAT:
                found.append((package, label, size, im))
        print("%-30s %-34s %4d pictures" % (package, version, len(found) - before), flush=True)
    # near-duplicates: the largest stays
    found.sort(key=lambda f: (-f[3].size, f[0], f[1]))
    kept, hashes = [], []
    for f in found:
        h = difference_hash(f[3])
        if hashes and (np.array(hashes) != h).sum(1).min() <= 12:
            continue
        hashes.append(h)
        kept.append(f)
    print("%d pictures, %d after near-duplicates" % (len(found), len(kept)))
    return sorted(kept, key=lambda f: (f[0], f[1]))


# ---------------------------------------------------------------- vectors
def write_vecs(path, x):
    """bvecs (uint8), ivecs (int32) or fvecs (float32), by the array's type."""
    head = np.full((len(x), 1), x.shape[1], "<i4").view(np.uint8)
    body = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)
    with open(path, "wb") as f:
        for s in range(0, len(x), 65536):
            np.hstack([head[s:s + 65536], body[s:s + 65536]]).tofile(f)


def ground_truth(base, query, top=TOP, block=64):
    """Exact nearest base ids by (squared distance, id).

    All values are integers and every sum stays below 2**24, so float32 arithmetic is exact here
    (SIFT descriptors have a norm of about 512, hence |q|^2 + |b|^2 is about 2**19)."""
    b = base.astype(np.float32)
    b2 = (b * b).sum(1)
    out = np.empty((len(query), top), np.int32)
    for s in range(0, len(query), block):
        q = query[s:s + block].astype(np.float32)
        q2 = (q * q).sum(1)
        assert q2.max() + b2.max() < 2 ** 24
        d = q @ b.T
        d *= -2
        d += b2
        d += q2[:, None]
        for i, row in enumerate(d):
            kth = np.partition(row, top - 1)[top - 1]
            ids = np.flatnonzero(row <= kth)
            out[s + i] = ids[np.argsort(row[ids], kind="stable")[:top]]
    return out


def describe(pictures):
    """[(package, name, size, keypoints)] of the pictures kept and their descriptors, one uint8 array each."""
    sift = cv2.SIFT_create(contrastThreshold=CONTRAST)
    rng = np.random.default_rng(SEED)
    names, parts = [], []
    for package, label, size, im in pictures:
        keys, desc = sift.detectAndCompute(im, None)
        if len(keys) < MIN_KEYPOINTS:
            continue
        total = len(keys)
        desc = desc.astype(np.uint8)              # OpenCV's values are integers in 0..255 already
        if total > CAP:
            desc = desc[np.sort(rng.choice(total, CAP, replace=False))]
        names.append((package, label, size, total))
        parts.append(desc)
    return names, parts, rng


def split_by_picture(names, counts, rng):
    """The split (index into SPLITS) of every picture.

    Pictures ordered by package and number of descriptors are cut into groups of QUERY_EVERY; of each full group one
    random picture goes to query, the others alternate between learn and base."""
    order = sorted(range(len(names)), key=lambda i: (names[i][0], counts[i], names[i][1]))
    split_of = np.zeros(len(names), int)
    turn = 0
    for s in range(0, len(order), QUERY_EVERY):
        group = rng.permutation(order[s:s + QUERY_EVERY])
        if len(group) == QUERY_EVERY:
            split_of[group[0]] = 2
            group = group[1:]
        for i in group:
            split_of[i] = turn
            turn = 1 - turn
    return split_of


def store(folder, learn, base, query):
    os.makedirs(folder, exist_ok=True)
    for name, x in zip(SPLITS, (learn, base, query)):
        write_vecs(os.path.join(folder, name + ".bvecs"), x)
        print("%s/%s.bvecs %s" % (folder, name, x.shape), flush=True)
    write_vecs(os.path.join(folder, "groundtruth.ivecs"), ground_truth(base, query))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default=".", help="folder of the data sets")
    ap.add_argument("--work", help="folder for the packages and their contents")
    args = ap.parse_args()
    cv2.setNumThreads(1)
    os.makedirs(args.out, exist_ok=True)

    names, parts, rng = describe(collect(os.path.abspath(args.work or os.path.join(args.out, "make_sift.tmp"))))
    owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    x = np.concatenate(parts)
    # exact duplicates: the first occurrence stays
    first = np.sort(np.unique(x.view("V128").ravel(), return_index=True)[1])
    print("%d pictures, %d descriptors, %d distinct" % (len(parts), len(x), len(first)))
    x, owner = x[first], owner[first]

    counts = np.bincount(owner, minlength=len(parts))
    split_of = split_by_picture(names, counts, rng)
    with open(os.path.join(args.out, "pictures.tsv"), "w") as f:
        f.write("package\tpicture\tsize\tkeypoints\tdescriptors_kept\tsplit\n")
        for (package, label, size, total), count, split in zip(names, counts, split_of):
            f.write("%s\t%s\t%s\t%d\t%d\t%s\n" % (package, label, size, total, count, SPLITS[split]))

    learn, base, query = [x[rng.permutation(np.flatnonzero(split_of[owner] == s))[:limit]]
                          for s, limit in enumerate((LEARN, BASE, QUERY))]
    store(os.path.join(args.out, "sift-sample"), learn[:SAMPLE_LEARN], base[:SAMPLE_BASE], query[:SAMPLE_QUERY])
    store(os.path.join(args.out, "sift-photos"), learn, base, query)


if __name__ == "__main__":
    main()
