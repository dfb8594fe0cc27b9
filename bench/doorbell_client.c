/* The client of bench/doorbell_host.py: rings with the time, and waits until the device has counted it. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { N = 3000, BIND = 0x3b76, BAR_SIZE = 1 << 20 };

int main(void) {
	int iommufd = open("/dev/iommu", O_RDWR), device = open("/dev/vfio/devices/vfio0", O_RDWR);
	uint32_t bind[4] = {sizeof bind, 0, iommufd, 0};
	struct timespec time;
	volatile uint64_t *bar;
	if (ioctl(device, BIND, bind)) {
		perror("VFIO_DEVICE_BIND_IOMMUFD");
		return 1;
	}
	bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (bar == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	for (uint64_t i = 1; i <= N; i++) {
		clock_gettime(CLOCK_MONOTONIC, &time);
		bar[0] = time.tv_sec * 1000000000ull + time.tv_nsec;
		while (bar[1] != i)
			;
	}
	return 0;
}
