"""XChaCha20-Poly1305 (RFC 8439, draft-irtf-cfrg-xchacha-03) in plain Python: for reading test repositories, and slow."""

import struct

CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
MASK = 0xFFFFFFFF
PRIME = (1 << 130) - 5
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def rounds(state):
    x = list(state)
    for _ in range(10):
        for a, b, c, d in QUARTERS:
            va, vb, vc, vd = x[a], x[b], x[c], x[d]
            va = (va + vb) & MASK
            vd ^= va
            vd = (vd << 16 | vd >> 16) & MASK
            vc = (vc + vd) & MASK
            vb ^= vc
            vb = (vb << 12 | vb >> 20) & MASK
            va = (va + vb) & MASK
            vd ^= va
            vd = (vd << 8 | vd >> 24) & MASK
            vc = (vc + vd) & MASK
            vb ^= vc
            x[a], x[b], x[c], x[d] = va, (vb << 7 | vb >> 25) & MASK, vc, vd
    return x


def stream(key, nonce, counter, length):
    """The key stream of ChaCha20 for a 12-byte nonce, from a block on."""
    words = struct.unpack("<8I", key)
    tail = struct.unpack("<3I", nonce)
    blocks = []
    for number in range(counter, counter + -(-length // 64)):
        state = (*CONSTANTS, *words, number, *tail)
        mixed = rounds(state)
        blocks.append(struct.pack("<16I", *((a + b) & MASK for a, b in zip(mixed, state))))
    return b"".join(blocks)[:length]


def tag_of(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for offset in range(0, len(message), 16):
        total = (total + int.from_bytes(message[offset : offset + 16] + b"\1", "little")) * r % PRIME
    return ((total + int.from_bytes(key[16:], "little")) & ((1 << 128) - 1)).to_bytes(16, "little")


def padded(data):
    return data + bytes(-len(data) % 16)


def decrypt(key, nonce, associated_data, ciphertext, tag):
    """The plain text; None where the tag does not match."""
    mixed = rounds((*CONSTANTS, *struct.unpack("<8I", key), *struct.unpack("<4I", nonce[:16])))
    subkey = struct.pack("<8I", *mixed[:4], *mixed[12:])
    short_nonce = bytes(4) + nonce[16:]
    lengths = struct.pack("<QQ", len(associated_data), len(ciphertext))
    message = padded(associated_data) + padded(ciphertext) + lengths
    if tag_of(stream(subkey, short_nonce, 0, 32), message) != tag:
        return None
    keystream = stream(subkey, short_nonce, 1, len(ciphertext))
    length = len(ciphertext)
    xored = int.from_bytes(ciphertext, "little") ^ int.from_bytes(keystream, "little")
    return xored.to_bytes(length, "little")
