// PCG64 (O'Neill 2014) as numpy has it, so that a bootstrap here resamples the very seeds that it resamples there.

const MULTIPLIER = "2360ed051fc65da44385df649fccf645";

/** A stream of 32-bit numbers; 128-bit arithmetic in eight parts of 16 bits, the lowest first. */
class Generator {
  constructor({ state, increment }) {
    [this.state, this.increment, this.multiplier] = [state, increment, MULTIPLIER].map(parts16);
    this.next = new Float64Array(8);
    this.rest = -1;
  }

  /** state * multiplier + increment, modulo 2 to the 128. */
  step() {
    const { state, multiplier, increment, next } = this;
    let carry = 0;
    for (let k = 0; k < 8; k++) {
      let sum = carry + increment[k];
      for (let i = 0; i <= k; i++) sum += state[i] * multiplier[k - i];
      carry = Math.floor(sum / 65536);
      next[k] = sum - 65536 * carry;
    }
    this.state = next;
    this.next = state;
    return next;
  }

  /** The low half of each 64-bit output comes first, then the high one. */
  uint32() {
    if (this.rest >= 0) {
      const found = this.rest;
      this.rest = -1;
      return found;
    }
    const s = this.step();
    const low = ((s[1] ^ s[5]) << 16) | (s[0] ^ s[4]);
    const high = ((s[3] ^ s[7]) << 16) | (s[2] ^ s[6]);
    const turn = s[7] >>> 10;
    const by = turn & 31;
    const first = turn < 32 ? low : high;
    const second = turn < 32 ? high : low;
    this.rest = (by ? (second >>> by) | (first << (32 - by)) : second) >>> 0;
    return (by ? (first >>> by) | (second << (32 - by)) : first) >>> 0;
  }

  /** `count` whole numbers from 0 to below `bound` (Lemire 2019). */
  integers(bound, count) {
    const found = new Uint16Array(count);
    if (bound === 1) return found;
    const threshold = (4294967296 - bound) % bound;
    for (let i = 0; i < count; i++) {
      let high, low;
      do {
        const product = this.uint32() * bound;
        high = Math.floor(product / 4294967296);
        low = product - 4294967296 * high;
      } while (low < threshold);
      found[i] = high;
    }
    return found;
  }
}

function parts16(hexadecimal) {
  return Float64Array.from(range(8), (k) => parseInt(hexadecimal.slice(28 - 4 * k, 32 - 4 * k), 16));
}

const resampledBefore = new Map();

/** Picks of seeds for blocks of these sizes, `draws.count` times each, on two independent sides; see `sideOf`. */
function resampled(draws, sizes) {
  const name = sizes.join();
  if (!resampledBefore.has(name)) {
    if (resampledBefore.size > 8) resampledBefore.clear();
    const generator = new Generator(draws);
    resampledBefore.set(name, [sideOf(generator, sizes, draws.count), sideOf(generator, sizes, draws.count)]);
  }
  return resampledBefore.get(name);
}

/**
 * How often each seed was picked: `counts`, [draw][seed of all blocks in a row]. Few picks of few seeds differ, so
 * `kinds` has the counts of each different pick of a block, and `kind` says for each draw which of them it is.
 */
function sideOf(generator, sizes, count) {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const counts = new Uint16Array(count * total);
  let start = 0;
  const blocks = sizes.map((size) => {
    const picks = generator.integers(size, count * size);
    const [known, kinds, kind] = [new Map(), [], new Uint16Array(count)];
    for (let draw = 0; draw < count; draw++) {
      const own = counts.subarray(draw * total + start, draw * total + start + size);
      for (let i = draw * size; i < (draw + 1) * size; i++) own[picks[i]]++;
      let name = 0;
      for (let i = 0; i < size; i++) name = name * (size + 1) + own[i];
      if (size > 12) name = own.join();
      if (!known.has(name)) known.set(name, kinds.push(own) - 1);
      kind[draw] = known.get(name);
    }
    start += size;
    return { size, kinds, kind };
  });
  return { blocks, counts, total, count };
}
