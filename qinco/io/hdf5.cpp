#include "qinco/io/hdf5.h"

#include "kernels/check.h"

#ifdef QINCO_HDF5

#include <algorithm>
#include <hdf5.h>

namespace qinco {
namespace {

/// Closes what HDF5 opened.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

/// Keeps HDF5 from printing its own error stack.
class QuietErrors {
 public:
  QuietErrors() {
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~QuietErrors() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }
  QuietErrors(const QuietErrors&) = delete;
  QuietErrors& operator=(const QuietErrors&) = delete;

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

std::string dataset_names(hid_t file) {
  std::string names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* list) -> herr_t {
    *static_cast<std::string*>(list) += (static_cast<std::string*>(list)->empty() ? "" : ", ") + std::string(name);
    return static_cast<std::string*>(list)->size() > 300 ? 1 : 0;
  };
  H5Literate(file, H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names);
  return names.empty() ? "none" : names;
}

/// Opens a dataset of this file; links to other files are not followed, and nothing of them is opened. -1 if there is
/// none, `external` tells why.
hid_t open_dataset(hid_t file, const std::string& name, bool& external) {
  const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  const auto refuse = [](const char*, const char*, const char*, const char*, unsigned*, hid_t, void* found) -> herr_t {
    *static_cast<bool*>(found) = true;
    return -1;
  };
  external = false;
  H5Pset_elink_cb(access, refuse, &external);
  return H5Dopen2(file, name.c_str(), access);
}

DType element_type(const std::string& path, hid_t dataset) {
  const std::pair<hid_t, DType> known[] = {{H5T_IEEE_F32LE, DType::f32},
                                           {H5T_IEEE_F64LE, DType::f64},
                                           {H5T_STD_U8LE, DType::u8},
                                           {H5T_STD_I32LE, DType::i32},
                                           {H5T_STD_I64LE, DType::i64}};
  const Handle type(H5Dget_type(dataset), H5Tclose);
  for (const auto& [id, dtype] : known)
    if (type.valid() && H5Tequal(type, id) > 0) return dtype;
  fail("{}: values of another type than f32, f64, u8, i32 and i64, little-endian", path);
}

}  // namespace

RowLayout open_hdf5(const std::string& path) {
  constexpr int64_t kMaxDim = 1 << 20;
  const size_t colon = path.rfind(".hdf5:");
  const std::string file_path = path.substr(0, colon == std::string::npos ? colon : colon + 5);
  const std::string name = path.substr(std::min(file_path.size() + 1, path.size()));
  RowLayout rows;
  rows.file = MappedFile::open(file_path);
  const QuietErrors quiet;
  const Handle file(H5Fopen(file_path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
  check(file.valid(), "{}: not an HDF5 file", file_path);
  bool external = false;
  const Handle dataset(open_dataset(file, name, external), H5Dclose);
  check(!external, "{}: a link to another file, which is not followed", path);
  check(dataset.valid(), "{}: no dataset {}, expected {}:DATASET with one of: {}", file_path, quote(name), file_path,
        dataset_names(file));
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  const H5D_layout_t layout = H5Pget_layout(properties);  // before anything that opens a virtual dataset's sources
  check(layout != H5D_VIRTUAL && H5Pget_external_count(properties) == 0,
        "{}: its values lie in other files, which are not read", path);
  check(layout == H5D_CONTIGUOUS, "{}: chunked or compressed; h5repack -l CONTI makes it contiguous", path);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  hsize_t sizes[2] = {0, 0};
  const bool matrix = H5Sget_simple_extent_ndims(space) == 2 && H5Sget_simple_extent_dims(space, sizes, nullptr) == 2;
  check(matrix && sizes[0] >= 1 && sizes[1] >= 1 && sizes[1] <= kMaxDim && sizes[0] <= INT64_MAX / (8 * kMaxDim),
        "{}: expected a matrix of at least one row and 1 to {} columns", path, kMaxDim);
  rows.dtype = element_type(path, dataset);
  rows.n = static_cast<int64_t>(sizes[0]);
  rows.d = static_cast<int64_t>(sizes[1]);
  const haddr_t offset = H5Dget_offset(dataset);
  const auto size = static_cast<uint64_t>(rows.file->size()), bytes = static_cast<uint64_t>(rows.n * rows.row_bytes());
  check(offset != HADDR_UNDEF && offset <= size && bytes <= size - offset, "{}: its {} bytes are not in the file", path,
        bytes);
  rows.offset = static_cast<int64_t>(offset);
  return rows;
}

}  // namespace qinco

#else

namespace qinco {

RowLayout open_hdf5(const std::string& path) {
  fail("{}: this build has no HDF5 (install libhdf5-dev and configure again)", path);
}

}  // namespace qinco

#endif
