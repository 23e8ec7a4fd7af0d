// A bit-serial matrix unit: ROWS x COLUMNS accumulators, each adding the ones of DEPTH products a cycle.
module bit_serial #(
  parameter ROWS = 4,
  parameter COLUMNS = 4,
  parameter DEPTH = 32
) (
  input clock,
  input start,
  input [31:0] row_tiles, column_tiles, words,
  input [3:0] weight_bits, activation_bits,
  input weight_signed,
  input [ROWS*DEPTH-1:0] activations,
  input [COLUMNS*DEPTH-1:0] weights,
  output reg busy,
  output reg finished,
  output reg [31:0] row_tile, column_tile, word,
  output reg [3:0] weight_bit, activation_bit,
  output reg [ROWS*COLUMNS*32-1:0] sums
);
  wire last_activation = activation_bit + 1 == activation_bits;
  wire last_weight = weight_bit + 1 == weight_bits;
  wire last_word = word + 1 == words;
  wire last_column = column_tile + 1 == column_tiles;
  wire last_row = row_tile + 1 == row_tiles;
  wire first = activation_bit == 0 && weight_bit == 0 && word == 0;
  wire negative = weight_signed && last_weight;

  integer r, c, d;
  reg signed [31:0] ones, term;
  always @(posedge clock) begin
    finished <= 0;
    if (start) begin
      busy <= 1;
      row_tile <= 0;
      column_tile <= 0;
      word <= 0;
      weight_bit <= 0;
      activation_bit <= 0;
    end else if (busy) begin
      for (r = 0; r < ROWS; r = r + 1)
        for (c = 0; c < COLUMNS; c = c + 1) begin
          ones = 0;
          for (d = 0; d < DEPTH; d = d + 1)
            ones = ones + {31'b0, activations[r*DEPTH + d] & weights[c*DEPTH + d]};
          term = ones << (weight_bit + activation_bit);
          if (negative) term = -term;
          sums[(r*COLUMNS + c)*32 +: 32] <= (first ? 0 : sums[(r*COLUMNS + c)*32 +: 32]) + term;
        end
      activation_bit <= last_activation ? 0 : activation_bit + 1;
      if (last_activation) weight_bit <= last_weight ? 0 : weight_bit + 1;
      if (last_activation && last_weight) word <= last_word ? 0 : word + 1;
      if (last_activation && last_weight && last_word) begin
        finished <= 1;
        column_tile <= last_column ? 0 : column_tile + 1;
        if (last_column) row_tile <= row_tile + 1;
        if (last_column && last_row) busy <= 0;
      end
    end
  end
endmodule
