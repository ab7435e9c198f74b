// trainer.h - the child that runs one training job; speaks worker/CHILD_PROTOCOL.md on `fd`.
//
// A reader thread answers pings and notes cancel and preempt while the main thread trains; SIGTERM means preempt too, SIGUSR1 = save and
// go on. Inputs of train.detector: the data set as part or file `dataset` (an uncompressed tar), or param data_dir (a folder on the
// worker); optionally file `init_model`. Outputs: out_file.model (detector.safetensors), out.metrics (JSON), value.runtime,
// value.metadata (JSON for the registry), value.weights_hash.
#pragma once

namespace gq::exec {

int run_trainer(int fd);

}  // namespace gq::exec
