// Feeds the unit from standard input, a layer after the other: sizes, planes of activations [row tile, word, bit], planes
// of weights [column tile, word, bit]; writes the cycles of a layer and the sums of its tiles.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "Vbit_serial.h"
#include "verilated.h"

int main() {
  Vbit_serial unit;
  uint32_t sizes[6];
  const size_t from = ROWS * DEPTH / 8, weight = COLUMNS * DEPTH / 8, sums = ROWS * COLUMNS * 4;
  while (fread(sizes, 4, 6, stdin) == 6) {
    const uint32_t rows = sizes[0], columns = sizes[1], words = sizes[2], wide = sizes[3], narrow = sizes[4];
    std::vector<uint8_t> a(rows * words * narrow * from), w(columns * words * wide * weight);
    if (fread(a.data(), 1, a.size(), stdin) != a.size() || fread(w.data(), 1, w.size(), stdin) != w.size()) return 1;
    unit.row_tiles = rows;
    unit.column_tiles = columns;
    unit.words = words;
    unit.weight_bits = wide;
    unit.activation_bits = narrow;
    unit.weight_signed = sizes[5];
    unit.start = 1;
    unit.clock = 0;
    unit.eval();
    unit.clock = 1;
    unit.eval();
    unit.start = 0;
    uint64_t cycles = 0;
    std::vector<uint8_t> found;
    while (unit.busy) {
      const size_t one = (unit.row_tile * words + unit.word) * narrow + unit.activation_bit;
      const size_t two = (unit.column_tile * words + unit.word) * wide + unit.weight_bit;
      memcpy(&unit.activations, &a[one * from], from);
      memcpy(&unit.weights, &w[two * weight], weight);
      unit.clock = 0;
      unit.eval();
      unit.clock = 1;
      unit.eval();
      cycles++;
      if (unit.finished) {
        const uint8_t *at = reinterpret_cast<const uint8_t *>(&unit.sums);
        found.insert(found.end(), at, at + sums);
      }
    }
    fwrite(&cycles, 8, 1, stdout);
    fwrite(found.data(), 1, found.size(), stdout);
  }
  return 0;
}
