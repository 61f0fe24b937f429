#include "qinco/io/hdf5.h"

#include "kernels/check.h"

#ifdef QINCO_HDF5

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

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

/// Where a dataset lies in its file.
struct Place {
  DType dtype = DType::f32;
  int64_t n = 0, d = 0, offset = 0;
};

/// `path`: both names, as the user gave them; `bytes`: of the file.
Place find_dataset(const std::string& path, const std::string& file_path, const std::string& name, int64_t bytes) {
  constexpr int64_t kMaxDim = 1 << 20;
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
  Place place{element_type(path, dataset), static_cast<int64_t>(sizes[0]), static_cast<int64_t>(sizes[1])};
  const haddr_t offset = H5Dget_offset(dataset);
  const auto size = static_cast<uint64_t>(bytes),
             wanted = static_cast<uint64_t>(place.n * place.d) * size_of(place.dtype);
  check(offset != HADDR_UNDEF && offset <= size && wanted <= size - offset, "{}: its {} bytes are not in the file",
        path, wanted);
  place.offset = static_cast<int64_t>(offset);
  return place;
}

struct Answer {
  bool found = false;
  Place place;
  char why[1000] = "";
};

/// The child's part: libhdf5 prints what it finds when it is about to crash, and may loop.
[[noreturn]] void answer_and_exit(int to, const std::function<Place()>& find) {
  const rlimit no_core{0, 0}, seconds{60, 60};
  ::setrlimit(RLIMIT_CORE, &no_core);
  ::setrlimit(RLIMIT_CPU, &seconds);
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL}) ::signal(signal, SIG_DFL);
  const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (nowhere >= 0) ::dup2(nowhere, STDERR_FILENO);
  Answer answer;
  try {
    answer.place = find();
    answer.found = true;
  } catch (const std::exception& error) {
    std::snprintf(answer.why, sizeof answer.why, "%s", error.what());
  }
  const bool written = ::write(to, &answer, sizeof answer) == sizeof answer;  // less than a pipe takes at once
  ::_exit(written ? 0 : 1);
}

/// Calls find() in a process of its own: libhdf5 crashes on some damaged files.
Place find_in_child(const std::string& file_path, const std::function<Place()>& find) {
  int ends[2];
  check(::pipe2(ends, O_CLOEXEC) == 0, "{}: cannot open: no pipe", file_path);
  const pid_t child = ::fork();
  if (child == 0) answer_and_exit(ends[1], find);
  ::close(ends[1]);
  Answer answer;
  ssize_t got = 0;
  while (child > 0 && (got = ::read(ends[0], &answer, sizeof answer)) < 0 && errno == EINTR) {
  }
  ::close(ends[0]);
  while (child > 0 && ::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  check(child > 0, "{}: cannot open: no process", file_path);
  check(got == sizeof answer, "{}: damaged: libhdf5 crashes on it", file_path);
  if (!answer.found) fail("{}", answer.why);
  return answer.place;
}

}  // namespace

RowLayout open_hdf5(const std::string& path) {
  const size_t colon = path.rfind(".hdf5:");
  const std::string file_path = path.substr(0, colon == std::string::npos ? colon : colon + 5);
  const std::string name = path.substr(std::min(file_path.size() + 1, path.size()));
  RowLayout rows;
  rows.file = MappedFile::open(file_path);
  const Place place = find_in_child(file_path, [&] { return find_dataset(path, file_path, name, rows.file->size()); });
  rows.dtype = place.dtype;
  rows.n = place.n;
  rows.d = place.d;
  rows.offset = place.offset;
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
