// Models in the files of PyTorch (torch.save): read without Python, executing nothing; written as state dicts.
#pragma once

#include <string>

#include "qinco/io/model_file.h"

namespace qinco {

/// Whether a file begins as PyTorch's do.
bool is_torch_file(const MappedFile& file);

/// Reads a QINCo, QINCoLR, IVFQINCo or PQ_QINCo saved whole, its state dict, a training checkpoint {epoch, scheduler,
/// state_dict}, or the description of a QINCo2 checkpoint (variant "qinco2", no tensors). The metadata is that of
/// model_file.h and model_sizes.h; state dicts made elsewhere have no db_scale.
/// Tensors lie on the mapped file. Throws a one-line Error naming the file for anything else, and within 100 MB of
/// memory more than what is read from the file.
ModelContents read_torch_file(const std::shared_ptr<const MappedFile>& file);

/// Writes the tensors as a state dict that torch.load opens with weights_only=True, which PyTorch has since 1.13,
/// atomically; db_scale goes along as decimal text, state_dict._metadata[MODULE]["db_scale"], MODULE "" or a part's
/// name, which PyTorch carries and read_torch_file finds.
void write_torch_file(const std::string& path, const ModelContents& contents);

}  // namespace qinco
