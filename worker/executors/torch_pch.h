// torch_pch.h - the precompiled header of every translation unit that sees LibTorch (16 s each without it).
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/script.h>
#include <torch/torch.h>
