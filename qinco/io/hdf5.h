// HDF5 files (those of ann-benchmarks, say) as rows; only where the build has libhdf5.
#pragma once

#include <string>

#include "qinco/io/rows.h"

namespace qinco {

/// Opens "FILE.hdf5:DATASET", a matrix stored contiguously; a process of its own looks it up, as libhdf5 crashes on
/// some damaged files. Throws Error naming the file when the build has no HDF5, no dataset is named or it does not
/// exist (the message lists those there are), or it is chunked, compressed, in another file (through a link, as
/// external storage or as a virtual dataset; no other file is opened) or of another type than f32 f64 u8 i32 i64,
/// little-endian.
RowLayout open_hdf5(const std::string& path);

}  // namespace qinco
