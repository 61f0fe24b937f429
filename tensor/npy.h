// NumPy's .npy files (format 1.0, 2.0, 3.0; C order; little-endian): f32 f64 f16 u8 i32 i64.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace qinco {

/// What a .npy header says, and where its data starts.
struct NpyHeader {
  DType dtype = DType::f32;
  Shape shape;
  int64_t data_offset = 0;
};

/// Whether a file begins as .npy files do.
bool is_npy(const MappedFile& file);
/// Parses and checks the header of a mapped file: magic, version, dtype, order, shape, and that the file's size is
/// exactly header + data. Throws a one-line Error naming the file.
NpyHeader parse_npy_header(const MappedFile& file);
/// The bytes of a version 1.0 header, padded so that the data is aligned to 64 bytes. Not for bf16.
std::string npy_header(DType dtype, const Shape& shape);

/// The array of a .npy file; the tensor lies on the mapped file and is read-only (clone() it to write).
Tensor read_npy(const std::string& path);
/// Writes x, on any device, atomically; any dtype but bf16.
void write_npy(const std::string& path, const Tensor& x);

}  // namespace qinco
