// What the kernels of one step read about its rows and sequences, in the device's memory.
#ifndef ATTND_KERNELS_DECODE_CUDA_STEP_TABLES_H_
#define ATTND_KERNELS_DECODE_CUDA_STEP_TABLES_H_

#include <cstdint>

namespace attnd::decode {

// A row of a step. Rows that fill up a captured graph have segment -1 and do nothing.
struct StepRow {
  int32_t token = 0;
  int32_t segment = -1;
  int32_t offset = 0;  // Among its segment's rows.
  int32_t position = 0;
};

// Rows [row, row + count) of one sequence.
struct StepSegment {
  int32_t row = 0;
  int32_t count = 0;  // 0: fills up a graph.
};

// Where a sequence's page i of one layer stands: pages[begin + i - first].
struct PageRun {
  int32_t begin = 0;
  int32_t first = 0;
};

struct StepTables {
  const StepRow* rows;          // [rows]
  const StepSegment* segments;  // [segments]
  float* const* fixed;          // [layers, segments]
  const PageRun* page_runs;     // [paged layers, segments]
  float* const* pages;
  const int32_t* asked;   // Rows whose logits are asked for.
  int32_t segment_count;  // The rows' stride of `fixed` and `page_runs`.
};

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_CUDA_STEP_TABLES_H_
