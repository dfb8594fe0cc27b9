/*
 * A driver for QEMU's edu device in user space: Linux's iommufd and VFIO, and nothing else.
 *
 *     cc -O2 -o edu edu.c
 *     ./edu 0000:01:00.0
 *
 * Runs on a machine with an IOMMU and an edu device bound to vfio-pci, and without either:
 *
 *     ioas run -- ./edu 0000:01:00.0
 *
 * The device (QEMU, docs/specs/edu.rst) computes factorials, has a buffer of 4 KiB and a DMA engine with 28 address
 * bits that copies between its buffer and memory, and interrupts when it is done.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/vfio.h>
#if __has_include(<linux/iommufd.h>)
#include <linux/iommufd.h>
#else /* Headers older than Linux 6.2: the part of iommufd that is used here. */
struct iommu_ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct iommu_ioas_map { uint32_t size, flags, ioas_id, __reserved; uint64_t user_va, length, iova; };
struct iommu_ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#define IOMMU_IOAS_MAP _IO(';', 0x85)
#define IOMMU_IOAS_UNMAP _IO(';', 0x86)
enum { IOMMU_IOAS_MAP_FIXED_IOVA = 1, IOMMU_IOAS_MAP_WRITEABLE = 2, IOMMU_IOAS_MAP_READABLE = 4 };
#endif
#ifndef VFIO_DEVICE_BIND_IOMMUFD /* Headers older than Linux 6.6. */
struct vfio_device_bind_iommufd { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct vfio_device_attach_iommufd_pt { uint32_t argsz, flags, pt_id; };
#define VFIO_DEVICE_BIND_IOMMUFD _IO(';', 118)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(';', 119)
#endif

/* Registers of edu, in BAR 0. */
enum {
	IDENTIFICATION = 0x00, LIVENESS = 0x04, FACTORIAL = 0x08, STATUS = 0x20, INTERRUPT_STATUS = 0x24,
	INTERRUPT_ACKNOWLEDGE = 0x64, DMA_SOURCE = 0x80, DMA_DESTINATION = 0x88, DMA_COUNT = 0x90, DMA_COMMAND = 0x98,
};
enum { STATUS_COMPUTING = 1 };
enum { DMA_START = 1, DMA_TO_MEMORY = 2, DMA_INTERRUPT = 4 };
enum { DEVICE_BUFFER = 0x40000 };

enum { PCI_COMMAND = 4, PCI_COMMAND_MASTER = 4 };
enum { LENGTH = 4096, IOVA = 0x100000 /* any address below 2^28 that the IOMMU can map */ };

static int device;
static uint64_t bar0, config;

static void die(const char *what)
{
	fprintf(stderr, "edu: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(int good, const char *what)
{
	if (!good) {
		fprintf(stderr, "edu: %s\n", what);
		exit(1);
	}
}

static uint32_t read_register(uint64_t offset)
{
	uint32_t value;

	if (pread(device, &value, sizeof(value), bar0 + offset) != sizeof(value))
		die("reading a register");
	return value;
}

static void write_register(uint64_t offset, uint32_t value)
{
	if (pwrite(device, &value, sizeof(value), bar0 + offset) != sizeof(value))
		die("writing a register");
}

/* The device file of a PCI device: /dev/vfio/devices/vfioN, with N from sysfs. */
static void find_device(const char *bdf, char *path, size_t size)
{
	char directory[256];
	struct dirent *entry;
	DIR *dir;

	snprintf(directory, sizeof(directory), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	dir = opendir(directory);
	if (!dir)
		die(directory);
	while ((entry = readdir(dir)))
		if (!strncmp(entry->d_name, "vfio", 4))
			snprintf(path, size, "/dev/vfio/devices/%.32s", entry->d_name);
	closedir(dir);
	check(path[0], "the device is not bound to vfio-pci");
}

static uint64_t find_region(uint32_t index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		die("VFIO_DEVICE_GET_REGION_INFO");
	return info.offset;
}

/* A device that has just been opened may not send anything: neither DMA nor message signalled interrupts. */
static void enable_bus_master(void)
{
	uint16_t command;

	if (pread(device, &command, sizeof(command), config + PCI_COMMAND) != sizeof(command))
		die("reading the command register");
	command |= PCI_COMMAND_MASTER;
	if (pwrite(device, &command, sizeof(command), config + PCI_COMMAND) != sizeof(command))
		die("writing the command register");
}

/* An eventfd that is signalled by the device's message signalled interrupt. */
static int enable_interrupt(void)
{
	char buffer[sizeof(struct vfio_irq_set) + sizeof(int)];
	struct vfio_irq_set *set = (struct vfio_irq_set *)buffer;
	int event = eventfd(0, EFD_CLOEXEC);

	if (event < 0)
		die("eventfd");
	set->argsz = sizeof(buffer);
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = VFIO_PCI_MSI_IRQ_INDEX;
	set->start = 0;
	set->count = 1;
	memcpy(set->data, &event, sizeof(event));
	if (ioctl(device, VFIO_DEVICE_SET_IRQS, set))
		die("VFIO_DEVICE_SET_IRQS");
	return event;
}

static void wait_for_interrupt(int event)
{
	struct pollfd wait = { .fd = event, .events = POLLIN };
	uint64_t count;

	if (poll(&wait, 1, 5000) != 1 || read(event, &count, sizeof(count)) != sizeof(count))
		check(0, "no interrupt within 5 seconds");
	write_register(INTERRUPT_ACKNOWLEDGE, read_register(INTERRUPT_STATUS));
}

static void dma(int event, uint32_t source, uint32_t destination, uint32_t count, uint32_t direction)
{
	write_register(DMA_SOURCE, source);
	write_register(DMA_DESTINATION, destination);
	write_register(DMA_COUNT, count);
	write_register(DMA_COMMAND, DMA_START | direction | DMA_INTERRUPT);
	wait_for_interrupt(event);
}

static uint32_t factorial(uint32_t number)
{
	write_register(FACTORIAL, number);
	while (read_register(STATUS) & STATUS_COMPUTING)
		usleep(1000);
	return read_register(FACTORIAL);
}

int main(int argc, char **argv)
{
	static const char message[] = "Hello from user space";
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct vfio_device_attach_iommufd_pt attach = { .argsz = sizeof(attach) };
	struct iommu_ioas_map map = { .size = sizeof(map), .length = LENGTH, .iova = IOVA };
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .iova = IOVA, .length = LENGTH };
	char path[64] = "", *memory;
	int iommufd, event;

	check(argc == 2, "usage: edu BDF, for example edu 0000:01:00.0");
	setvbuf(stdout, NULL, _IOLBF, 0);

	find_device(argv[1], path, sizeof(path));
	iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (iommufd < 0)
		die("/dev/iommu");
	device = open(path, O_RDWR | O_CLOEXEC);
	if (device < 0)
		die(path);
	printf("edu %s is %s\n", argv[1], path);

	/* The device belongs to this iommufd from now on, and all its DMA goes through the address space `alloc`. */
	bind.iommufd = iommufd;
	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		die("VFIO_DEVICE_BIND_IOMMUFD");
	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc))
		die("IOMMU_IOAS_ALLOC");
	attach.pt_id = alloc.out_ioas_id;
	if (ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		die("VFIO_DEVICE_ATTACH_IOMMUFD_PT");

	/* A page that the device may read and write, where it finds it at IOVA. */
	memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	map.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
	map.ioas_id = unmap.ioas_id = alloc.out_ioas_id;
	map.user_va = (uintptr_t)memory;
	if (ioctl(iommufd, IOMMU_IOAS_MAP, &map))
		die("IOMMU_IOAS_MAP");

	bar0 = find_region(VFIO_PCI_BAR0_REGION_INDEX);
	config = find_region(VFIO_PCI_CONFIG_REGION_INDEX);
	enable_bus_master();
	event = enable_interrupt();

	write_register(LIVENESS, 0x12345678);
	check(read_register(LIVENESS) == (uint32_t)~0x12345678, "the device does not invert: is this an edu?");
	printf("identification 0x%08x, alive\n", read_register(IDENTIFICATION));
	printf("10! = %u\n", factorial(10));

	strcpy(memory, message);
	dma(event, IOVA, DEVICE_BUFFER, LENGTH, 0);
	printf("memory to device by DMA: \"%s\", interrupt received\n", memory);
	memset(memory, 0, LENGTH);
	dma(event, DEVICE_BUFFER, IOVA, LENGTH, DMA_TO_MEMORY);
	check(!strcmp(memory, message), "the data came back changed");
	printf("device to memory by DMA: \"%s\", interrupt received\n", memory);

	/* Take the page away from the device, and let the device write to it all the same. */
	if (ioctl(iommufd, IOMMU_IOAS_UNMAP, &unmap))
		die("IOMMU_IOAS_UNMAP");
	memset(memory, '-', LENGTH);
	dma(event, DEVICE_BUFFER, IOVA, LENGTH, DMA_TO_MEMORY);
	check(memory[0] == '-' && !memcmp(memory, memory + 1, LENGTH - 1), "the device wrote where it may not");
	printf("device to memory after unmapping: stopped by the IOMMU, memory unchanged\n");
	return 0;
}
