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
    [this.state, this.next] = [next, state];
  }

  /** The low half of each 64-bit output comes first, then the high one. */
  uint32() {
    if (this.rest >= 0) {
      const found = this.rest;
      this.rest = -1;
      return found;
    }
    this.step();
    const s = this.state;
    const low = ((s[1] ^ s[5]) * 65536 + (s[0] ^ s[4])) >>> 0;
    const high = ((s[3] ^ s[7]) * 65536 + (s[2] ^ s[6])) >>> 0;
    const turn = s[7] >>> 10;
    const [a, b] = turn < 32 ? [low, high] : [high, low];
    const by = turn % 32;
    this.rest = by ? ((b >>> by) | (a << (32 - by))) >>> 0 : b;
    return by ? ((a >>> by) | (b << (32 - by))) >>> 0 : a;
  }

  /** `count` whole numbers from 0 to below `bound` (Lemire 2019). */
  integers(bound, count) {
    const found = new Uint16Array(count);
    if (bound === 1) return found;
    const threshold = (4294967296 - bound) % bound;
    for (let i = 0; i < count; i++) {
      let product = this.uint32() * bound;
      while (product % 4294967296 < threshold) product = this.uint32() * bound;
      found[i] = product / 4294967296;
    }
    return found;
  }
}

function parts16(hexadecimal) {
  return Float64Array.from(range(8), (k) => parseInt(hexadecimal.slice(28 - 4 * k, 32 - 4 * k), 16));
}

const resampledBefore = new Map();

/** Picks of seeds for blocks of these sizes, `draws.count` times each: two independent sides, one array per block. */
function resampled(draws, sizes) {
  const name = sizes.join();
  if (!resampledBefore.has(name)) {
    if (resampledBefore.size > 8) resampledBefore.clear();
    const generator = new Generator(draws);
    const side = () => sizes.map((size) => generator.integers(size, draws.count * size));
    resampledBefore.set(name, [side(), side()]);
  }
  return resampledBefore.get(name);
}
