"""How byte-pair encoding learns its tokens from a text."""

import heapq
from collections import Counter, defaultdict

import regex

# How GPT-2 cuts a text into the words that are merged. `{1,100000}` stands for its `+`: tiktoken's engine
# runs out of stack on a million blanks, and only runs longer than this are cut otherwise than by GPT-2.
GPT2_SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|\s{1,100000}(?!\S)|\s"
)

LONGEST = 32  # bytes; longer words (DNA, writing without blanks) are cut, since they take ever more time


def learn(text, vocab_size):
    """The tokens, bytes each: all single bytes, then pairs of tokens, as `BPETokenizer.train` says."""
    tokens = [bytes([b]) for b in range(256)]
    words, times = unique_words(text)
    # of a pair of ids: its occurrences, and the words that hold it
    counts, where = Counter(), defaultdict(set)
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            counts[pair] += times[w]
            where[pair].add(w)
    queue = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(queue)
    while queue and len(tokens) < vocab_size:
        n, pair = heapq.heappop(queue)
        if counts[pair] != -n:  # other merges took some of its occurrences: back in line
            heapq.heappush(queue, (-counts[pair], pair))
            continue
        if n > -2:
            break
        new, grown = len(tokens), set()
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        for w in where.pop(pair):
            for old in zip(words[w], words[w][1:]):
                counts[old] -= times[w]
            words[w] = merge(words[w], pair, new)
            for fresh in zip(words[w], words[w][1:]):
                counts[fresh] += times[w]
                if new in fresh:
                    where[fresh].add(w)
                    grown.add(fresh)
        for fresh in grown:
            heapq.heappush(queue, (-counts[fresh], fresh))
    return tokens


def unique_words(text):
    """The different words of a text, lists of bytes, and how often each occurs: far fewer than its words."""
    counted = Counter()
    for word, n in Counter(regex.findall(GPT2_SPLIT, text)).items():
        word = word.encode()
        for i in range(0, len(word), LONGEST):
            counted[word[i : i + LONGEST]] += n
    return [list(word) for word in counted], list(counted.values())


def merge(word, pair, new):
    """`word`, a list of ids, with each occurrence of `pair` replaced by the one id `new`."""
    merged = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return merged
