package guestapi

// DevicesAnnotation is the key, in the staged OCI specification, of the devices that the container's /dev gets beside those that
// every container has. The only value is GuestDevices; the host's rules of the device cgroup must allow them.
const DevicesAnnotation = AnnotationPrefix + "devices"

// GuestDevices stands for every device node that the guest has, and those whose opening loads a module.
const GuestDevices = "guest"
