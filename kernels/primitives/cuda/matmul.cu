// MatMul, SolveUnitLower. An element's products are summed in order of k by one thread, whatever
// else is in the batch: that is why no library chooses the algorithm here.
#include "kernels/primitives/cuda/cuda_backend.h"
#include "kernels/primitives/cuda/strided.cuh"

namespace attnd::cuda {
namespace {

constexpr int kTile = 64;      // Rows and columns of a block's piece of the output.
constexpr int kDepth = 16;     // Terms staged at a time.
constexpr int kThreads = 256;  // Each has 4 x 4 elements.
constexpr int kEach = 4;

struct Product {
  int64_t m, n, k;
  int64_t a_row, a_column, b_row, b_column, out_row, out_column;  // Strides in elements.
  double alpha, beta;
};

// One block for each tile; matrices are the walk's elements (operands a, b, out).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    MultiplyTiles(Walk<3> matrices, Product p, int64_t first_matrix) {
  __shared__ T a_tile[kDepth][kTile + 1];
  __shared__ T b_tile[kDepth][kTile + 1];
  char* at[3];
  matrices.At(first_matrix + blockIdx.z, at);
  const T* a = reinterpret_cast<const T*>(at[0]);
  const T* b = reinterpret_cast<const T*>(at[1]);
  T* out = reinterpret_cast<T*>(at[2]);
  const int64_t row0 = int64_t{blockIdx.y} * kTile, column0 = int64_t{blockIdx.x} * kTile;
  const int row = threadIdx.x / (kTile / kEach), column = threadIdx.x % (kTile / kEach);
  T sum[kEach][kEach] = {};
  for (int64_t l0 = 0; l0 < p.k; l0 += kDepth) {
    for (int i = threadIdx.x; i < kDepth * kTile; i += kThreads) {
      // Neighbouring threads read neighbouring elements, whichever axis is the dense one.
      const int a_l = p.a_column == 1 ? i % kDepth : i / kTile;
      const int a_r = p.a_column == 1 ? i / kDepth : i % kTile;
      const bool a_in = row0 + a_r < p.m && l0 + a_l < p.k;
      a_tile[a_l][a_r] = a_in ? a[(row0 + a_r) * p.a_row + (l0 + a_l) * p.a_column] : T(0);
      const int b_l = p.b_column == 1 ? i / kTile : i % kDepth;
      const int b_c = p.b_column == 1 ? i % kTile : i / kDepth;
      const bool b_in = column0 + b_c < p.n && l0 + b_l < p.k;
      b_tile[b_l][b_c] = b_in ? b[(l0 + b_l) * p.b_row + (column0 + b_c) * p.b_column] : T(0);
    }
    __syncthreads();
#pragma unroll
    for (int l = 0; l < kDepth; ++l) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          sum[i][j] = fma(a_tile[l][row * kEach + i], b_tile[l][column * kEach + j], sum[i][j]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t r = row0 + row * kEach + i, c = column0 + column * kEach + j;
      if (r >= p.m || c >= p.n) continue;
      T& element = out[r * p.out_row + c * p.out_column];
      const T product = static_cast<T>(p.alpha) * sum[i][j];
      element = p.beta == 0 ? product : product + static_cast<T>(p.beta) * element;
    }
  }
}

template <typename T>
void Multiply(cudaStream_t stream, const Walk<3>& matrices, const Product& p) {
  constexpr int64_t kMostMatrices = 32768;  // Of a launch: the grid's third axis ends at 65535.
  for (int64_t first = 0; first < matrices.count; first += kMostMatrices) {
    const dim3 grid(static_cast<unsigned>((p.n + kTile - 1) / kTile),
                    static_cast<unsigned>((p.m + kTile - 1) / kTile),
                    static_cast<unsigned>(std::min(kMostMatrices, matrices.count - first)));
    MultiplyTiles<T><<<grid, kThreads, 0, stream>>>(matrices, p, first);
  }
}

Tensor FirstElement(const Tensor& matrix) { return matrix.Slice(-1, 0, 1).Slice(-2, 0, 1); }

// One thread for each column, rows in order.
template <typename T>
void Solve(cudaStream_t stream, const Tensor& a, const Tensor& out) {
  Dims columns = out.shape();
  columns[columns.size() - 2] = 1;
  const int64_t n = out.dim(-2);
  const int64_t a_row = a.stride(-2), a_column = a.stride(-1), out_row = out.stride(-2);
  const Tensor a_heads = FirstElement(a), out_heads = out.Slice(-2, 0, 1);
  ForEach(stream, MakeWalk<2>(columns, {&a_heads, &out_heads}),
          [n, a_row, a_column, out_row] __device__(char*(&at)[2], int64_t) {
            const T* matrix = reinterpret_cast<const T*>(at[0]);
            T* x = reinterpret_cast<T*>(at[1]);
            for (int64_t r = 1; r < n; ++r) {
              T sum = 0;
              for (int64_t s = 0; s < r; ++s)
                sum += matrix[r * a_row + s * a_column] * x[s * out_row];
              x[r * out_row] -= sum;
            }
          });
}

}  // namespace

void CudaBackend::MatMul(const Tensor& a, const Tensor& b, const Tensor& out, double alpha,
                         double beta) {
  if (out.num_elements() == 0) return;
  if (a.dim(-1) == 0) {
    // Nothing to sum: out = beta out.
    if (beta == 0) return Fill(0, out);
    const absl::StatusOr<Tensor> factor = Allocate(out.dtype(), {1});
    if (!factor.ok()) return Note(cudaErrorMemoryAllocation, "MatMul");
    Fill(beta, *factor);
    return Binary(BinaryOp::kMul, out, *factor, out);
  }
  Dims batch = out.shape();
  batch[batch.size() - 1] = batch[batch.size() - 2] = 1;
  const Tensor heads[3] = {FirstElement(a), FirstElement(b), FirstElement(out)};
  const auto matrices = MakeWalk<3>(batch, {&heads[0], &heads[1], &heads[2]});
  const Product product = {out.dim(-2),    out.dim(-1),  a.dim(-1),    a.stride(-2),
                           a.stride(-1),   b.stride(-2), b.stride(-1), out.stride(-2),
                           out.stride(-1), alpha,        beta};
  if (out.dtype() == DType::kFloat32) {
    Multiply<float>(stream_, matrices, product);
  } else {
    Multiply<double>(stream_, matrices, product);
  }
  NoteLaunch("MatMul");
}

void CudaBackend::SolveUnitLower(const Tensor& a, const Tensor& b, const Tensor& out) {
  if (out.num_elements() == 0) return;
  if (out.raw() != b.raw()) Copy(b, out);
  if (out.dtype() == DType::kFloat32) {
    Solve<float>(stream_, a, out);
  } else {
    Solve<double>(stream_, a, out);
  }
  NoteLaunch("SolveUnitLower");
}

}  // namespace attnd::cuda
