"""What several tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_numerics():
    """Results of short tests must not depend on the machine's cores, nor wait for them.

    Nor do they depend on tests before them that trained something: training lets tiny numbers count
    as zero in the whole process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    yield
    torch.set_num_threads(threads)
