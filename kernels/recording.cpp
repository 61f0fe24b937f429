#include "kernels/recording.h"

#include <cstdlib>
#include <string>

#include "kernels/check.h"
#include "kernels/cuda/recorder.h"

namespace qinco::kernels {

bool Recording::wanted(Device device) {
  const char* const setting = std::getenv("QINCO_CUDA_GRAPHS");
  return device.type == DeviceType::cuda && !(setting && std::string(setting) == "0");
}

Recording::Recording(Device device, const std::function<void()>& work) : scratch_(device) {
  check(device.type == DeviceType::cuda, "recording: expected a CUDA device, found {}", device);
  check_device(device);
  recorder_ = std::make_unique<cuda::Recorder>(device.index);
  const Context context{device, 1, recorder_->stream(), &scratch_};
  const ContextScope scope(context);
  work();
  recorder_->end();
}

Recording::~Recording() = default;

void Recording::queue() {
  recorder_->queue();
}

}  // namespace qinco::kernels
