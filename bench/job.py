# SPDX-License-Identifier: MIT
"""What the benchmark has Python do: objects, dictionaries, strings, generators, big integers. Prints a checksum."""
import hashlib
import json
import re
import sys


class Node:
    __slots__ = ("key", "left", "right")

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while key != node.key:
            side = "left" if key < node.key else "right"
            child = getattr(node, side)
            if child is None:
                setattr(node, side, Node(key))
                return
            node = child

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.key
        if self.right:
            yield from self.right.walk()


def numbers(count, seed=12345):
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % 2147483648
        yield seed >> 8


def main(rounds):
    digest = hashlib.sha256()
    for r in range(rounds):
        root = Node(1 << 22)
        for n in numbers(6000, r):
            root.insert(n)
        digest.update(str(sum(root.walk())).encode())
        words = {}
        for n in numbers(20000, r):
            word = "w%d" % (n % 997)
            words[word] = words.get(word, 0) + 1
        digest.update(json.dumps(sorted(words.items(), key=lambda item: (-item[1], item[0]))).encode())
        text = " ".join("%x" % n for n in numbers(8000, r))
        digest.update(str(len(re.findall(r"\b[a-f]\w*[0-9]\b", text))).encode())
        sieve = bytearray([1]) * 60000
        for i in range(2, 245):
            if sieve[i]:
                sieve[i * i::i] = bytes(len(range(i * i, 60000, i)))
        digest.update(str(sum(sieve)).encode())
        product = 1
        for i in range(1, 600):
            product *= i
        digest.update(str(product % 1000000007).encode())
        digest.update(repr([x * y for x in range(200) for y in range(200) if (x ^ y) & 3 == 1][-5:]).encode())
    print(digest.hexdigest())


main(int(sys.argv[1]))
