// Groups as a compact letter display (Piepho 2004): two entrants share a letter if and only if they are not told apart.

/** Letters of entrants in the order of their places; `apart(i, j)` says whether two are told apart. */
function letters(size, apart) {
  let groups = [new Set(range(size))];
  for (let i = 0; i < size; i++) {
    for (let j = i + 1; j < size; j++) if (apart(i, j)) groups = separated(groups, i, j);
  }
  const ordered = groups.map((group) => [...group].sort((a, b) => a - b)).sort(lexicographic);
  return range(size).map((i) => ordered.map((group, k) => (group.includes(i) ? letter(k) : "")).join(""));
}

/** Groups that hold both are split; only the new ones can lie in another. */
function separated(groups, i, j) {
  const both = groups.filter((group) => group.has(i) && group.has(j));
  const kept = groups.filter((group) => !both.includes(group));
  for (const group of both) {
    for (const gone of [i, j]) {
      const less = new Set(group);
      less.delete(gone);
      if (!kept.some((other) => isWithin(less, other))) {
        for (let k = kept.length - 1; k >= 0; k--) if (isWithin(kept[k], less)) kept.splice(k, 1);
        kept.push(less);
      }
    }
  }
  return kept;
}

function isWithin(group, other) {
  if (group.size > other.size) return false;
  for (const member of group) if (!other.has(member)) return false;
  return true;
}

function lexicographic(a, b) {
  for (let k = 0; k < Math.min(a.length, b.length); k++) if (a[k] !== b[k]) return a[k] - b[k];
  return a.length - b.length;
}

/** a, b, ..., z, a2, b2, ... */
function letter(index) {
  const turn = Math.floor(index / 26);
  return String.fromCharCode(97 + (index % 26)) + (turn ? turn + 1 : "");
}

function marks(group) {
  return new Set(group.match(/[a-z]\d*/g) || []);
}
