#!/usr/bin/env python3
"""Restores a backup by docs/FORMAT.md alone: read_repository.py REPOSITORY NAME DIRECTORY [KEY_FILE].

With --wal instead of NAME, and a file of the WAL archive instead of DIRECTORY, it prints what that file holds.
Hashes and frames are the work of the programs b3sum and zstd; nothing of pgbox takes part.
"""

import fcntl
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import xchacha20poly1305

CHUNK_SIZE = 131072
PIECE_SIZE = 131072
ENTRY = struct.Struct("<32sIIII")
DICTIONARY = struct.Struct("<4I")
FOOTER = struct.Struct("<QII32s8s")


def fail(message):
    sys.exit(f"read_repository.py: {message}")


def b3sum(arguments, data):
    output = subprocess.run(["b3sum", "--no-names", *arguments], input=data, stdout=subprocess.PIPE, check=True)
    return output.stdout.decode().strip()


def hash_of(data):
    return b3sum([], data)


def check_document(document):
    own_hash = document.pop("blake3")
    compact = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if hash_of(compact.encode()) != own_hash:
        fail("a document is damaged")
    return document


class Plain:
    """What is not encrypted."""

    magic = b"PGBXPK01"
    overhead = 0
    chunk_key = None

    def open(self, place, data):
        return data

    def pieces(self, path, data):
        return data


class Encrypted:
    """What is sealed with the key that repository.json holds, wrapped."""

    magic = b"PGBXPK02"
    overhead = 40

    def __init__(self, identity, key_file):
        if identity["encryption"]["cipher"] != "XChaCha20-Poly1305":
            fail("the cipher is unknown")
        file_key = bytes.fromhex(key_file.read_text().strip())
        wrapped = bytes.fromhex(identity["encryption"]["wrapped_key"])
        self.content_key = self.derive("wrapping", file_key)
        repository_key = self.open(b"key\0" + identity["id"].encode(), wrapped)
        self.content_key = self.derive("content", repository_key)
        self.chunk_key = self.derive("chunk names", repository_key)

    def derive(self, purpose, key):
        return bytes.fromhex(b3sum(["--derive-key", f"pgbox repository 2026-11 {purpose}"], key))

    def open(self, place, data):
        nonce, ciphertext, tag = data[:24], data[24:-16], data[-16:]
        plain = xchacha20poly1305.decrypt(self.content_key, nonce, place, ciphertext, tag)
        if plain is None:
            fail(f"what is sealed for {place!r} is damaged, or of another key")
        return plain

    def pieces(self, path, data):
        size = PIECE_SIZE + self.overhead
        pieces = [data[offset : offset + size] for offset in range(0, max(len(data), 1), size)]
        place = b"piece\0" + path.encode() + b"\0"
        last = len(pieces) - 1
        return b"".join(
            self.open(place + struct.pack("<Q", number) + bytes([number == last]), piece)
            for number, piece in enumerate(pieces)
        )


def read_table(repository, name, secrecy):
    path = f"{name}/backup.json"
    text = secrecy.open(b"file\0" + path.encode(), (repository / path).read_bytes())
    document = check_document(json.loads(text))
    path = f"{name}/files.zst"
    sealed = (repository / path).read_bytes()
    if hash_of(sealed) != document["files_blake3"]:
        fail("files.zst is damaged")
    table = secrecy.pieces(path, sealed)
    text = subprocess.run(["zstd", "-dcq"], input=table, stdout=subprocess.PIPE, check=True).stdout
    header, *entries = [json.loads(line) for line in text.decode().split("\n")]
    if header["format"] != 1 or header["chunk_size_bytes"] != CHUNK_SIZE:
        fail("the table has an unknown format")
    return header, entries


def check_table(entries):
    kinds = {}
    for entry in entries:
        names = entry["path"].split("/")
        if len(entry["path"].encode()) > 4096 or any(name in ("", ".", "..") or "\0" in name for name in names):
            fail(f"{entry['path']!r} leads out of the data directory")
        parent = "/".join(names[:-1])
        if entry["path"] in kinds or (parent and kinds.get(parent) not in ("directory", "tablespace")):
            fail(f"{entry['path']!r} is out of place")
        kinds[entry["path"]] = entry["kind"]
        if entry["kind"] == "file" and len(entry["chunks"]) != -(-entry["size_bytes"] // CHUNK_SIZE):
            fail(f"{entry['path']!r} has a wrong number of chunks")


def read_index(repository, secrecy):
    """The place of every chunk: pack, offset, length of the frame, length of the chunk, chunks of its dictionary."""
    places = {}
    for pack in sorted(repository.glob("packs/??/*.pack")):
        data = pack.read_bytes()
        if hash_of(data) != pack.stem or not pack.stem.startswith(pack.parent.name):
            fail(f"{pack} is damaged")
        begin, count, dictionary_count, index_hash, magic = FOOTER.unpack(data[-FOOTER.size:])
        end = len(data) - FOOTER.size
        index = data[begin:end]
        size = count * ENTRY.size + dictionary_count * DICTIONARY.size + secrecy.overhead
        if magic != secrecy.magic or begin + size != end:
            fail(f"{pack} has a wrong footer")
        if hash_of(index) != index_hash.hex():
            fail(f"{pack} has a damaged index")
        index = secrecy.open(b"index\0" + struct.pack("<QI", begin, count), index)
        entries = list(ENTRY.iter_unpack(index[: count * ENTRY.size]))
        dictionaries = list(DICTIONARY.iter_unpack(index[count * ENTRY.size :]))
        if any(entries[number][2] for numbers in dictionaries for number in numbers):
            fail(f"{pack} has a dictionary that needs another")
        for chunk, offset, dictionary, stored, raw in entries:
            if offset + stored > begin or raw > CHUNK_SIZE:
                fail(f"{pack} has a chunk that cannot be")
            numbers = dictionaries[dictionary - 1] if dictionary else ()
            places[chunk.hex()] = (pack, offset, stored, raw, [entries[number][0].hex() for number in numbers])
    return places


def decompress(names, directory, dictionary=None):
    frames = "\0".join(str(directory / f"{name}.zst") for name in names)
    options = ["-D", str(dictionary)] if dictionary else []
    subprocess.run(["xargs", "-0r", "zstd", "-dq", "--rm", *options], input=frames.encode(), check=True)


def unpack_chunks(wanted, places, directory, secrecy):
    """Writes every wanted chunk into a file that has its name, and checks all of them."""
    wanted = set(wanted)
    wanted |= {part for chunk in wanted for part in places[chunk][4]}
    by_dictionary = {}
    for chunk in wanted:
        pack, offset, stored, _, dictionary = places[chunk]
        by_dictionary.setdefault(tuple(dictionary), []).append(chunk)
        with open(pack, "rb") as file:
            file.seek(offset)
            frame = secrecy.open(b"chunk\0" + bytes.fromhex(chunk), file.read(stored))
            (directory / f"{chunk}.zst").write_bytes(frame)
    decompress(by_dictionary.pop((), []), directory)
    for parts, names in by_dictionary.items():
        content = b"".join((directory / part).read_bytes() for part in parts)
        if content.startswith(b"\x37\xa4\x30\xec"):
            fail("a dictionary is one that was trained")
        (directory / "dictionary").write_bytes(content)
        decompress(names, directory, directory / "dictionary")
    wanted = sorted(wanted)
    lines = []
    for begin in range(0, len(wanted), 500):
        keyed = ["--keyed"] if secrecy.chunk_key else []
        command = ["b3sum", *keyed, *wanted[begin : begin + 500]]
        key = secrecy.chunk_key or b""
        sums = subprocess.run(command, input=key, cwd=directory, stdout=subprocess.PIPE, check=True)
        lines += sums.stdout.decode().splitlines()
    if len(lines) != len(wanted):
        fail("not every chunk has a hash")
    for line in lines:
        digest, name = line.split()
        if digest != name or (directory / name).stat().st_size != places[name][3]:
            fail(f"chunk {name} is damaged")


def restore(header, entries, chunks, into):
    has_links = any(entry["kind"] == "tablespace" for entry in entries)
    in_place = [e for e in entries if e["kind"] in ("directory", "tablespace") and e["path"].startswith("pg_tblspc/")]
    left_out = {"postmaster.pid", "postmaster.opts"} | ({"tablespace_map"} if has_links else set())
    into.mkdir()
    into.chmod(0o750 if header["directory_mode"] == 0o750 else 0o700)
    for entry in entries:
        path = into / entry["path"]
        if entry["kind"] in ("directory", "tablespace"):
            path.mkdir()
            path.chmod(entry["mode"] | 0o700)
        elif entry["kind"] == "symlink":
            path.symlink_to(entry["target"])
        elif entry["path"] not in left_out:
            content = b"".join((chunks / chunk).read_bytes() for chunk in entry["chunks"])
            if len(content) != entry["size_bytes"]:
                fail(f"{entry['path']!r} has a wrong length")
            path.write_bytes(content)
            path.chmod(entry["mode"])
            os.utime(path, ns=(entry["modified_ns"], entry["modified_ns"]))
    if in_place:
        settings = into / "postgresql.auto.conf"
        text = settings.read_bytes() if settings.exists() else b""
        text += b"" if text.endswith(b"\n") or not text else b"\n"
        settings.write_bytes(text + b"allow_in_place_tablespaces = 'on'\n")
        settings.chmod(0o600)


def main():
    repository, name, into = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    identity = json.loads((repository / "repository.json").read_bytes())
    if "blake3" in identity:
        check_document(identity)
    if identity["format"] not in (1, 2) or identity["chunk_size_bytes"] != CHUNK_SIZE:
        fail("the repository has an unknown format")
    secrecy = Plain() if identity["format"] == 1 else Encrypted(identity, pathlib.Path(sys.argv[4]))
    if name == "--wal":
        frame = secrecy.pieces(str(into.relative_to(repository)), into.read_bytes())
        subprocess.run(["zstd", "-dcq"], input=frame, check=True)
        return
    with open(repository / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        header, entries = read_table(repository, name, secrecy)
        check_table(entries)
        wanted = sorted({chunk for entry in entries for chunk in entry.get("chunks", [])})
        with tempfile.TemporaryDirectory(dir=into.parent) as directory:
            chunks = pathlib.Path(directory)
            unpack_chunks(wanted, read_index(repository, secrecy), chunks, secrecy)
            restore(header, entries, chunks, into)


main()
